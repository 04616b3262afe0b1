"""What every simulated database is made of: locks, and a log of which a crash keeps what was forced."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from nodoubt.sim.locks import Deadlock, LockWait, Txn
from nodoubt.sim.store import Record, Store

PLACE = ("account", "a")


def store() -> Store:
    return Store({"account": {"a": 1, "b": 1}})


def take(found: Store, txn: Txn, place: Any = PLACE) -> LockWait | None:
    """Ask for a row; the wait, if there is one."""
    steps = found.lock(txn, place, None)
    try:
        wait = next(steps)
    except StopIteration:
        return None
    # Kept running: a wait that is closed has given up.
    wait.wake = lambda got, steps=steps: next(iter([got]))
    _RUNNING.append(steps)
    return wait


_RUNNING: list[Any] = []


def test_locks_are_handed_on_in_the_order_of_asking() -> None:
    found = store()
    first, second, third = Txn(), Txn(), Txn()
    assert take(found, first) is None
    order: list[str] = []
    for name, txn in (("second", second), ("third", third)):
        wait = take(found, txn)
        assert wait is not None
        wait.wake = lambda got, name=name: order.append(name)
    found.end(first, apply=False)
    assert order == ["second"]
    found.end(second, apply=False)
    assert order == ["second", "third"]


def test_whoever_would_wait_for_himself_is_refused() -> None:
    found = store()
    first, second = Txn(), Txn()
    take(found, first, ("account", "a"))
    take(found, second, ("account", "b"))
    assert take(found, first, ("account", "b")) is not None
    with pytest.raises(Deadlock):
        take(found, second, ("account", "a"))


def test_who_was_handed_a_lock_waits_for_nobody() -> None:
    found = store()
    first, second = Txn(), Txn()
    take(found, first)
    take(found, second)
    found.end(first, apply=False)
    # Its wait has not gone on yet; looking for a deadlock comes to an end all the same.
    assert take(found, Txn()) is not None


@pytest.mark.parametrize("seed", range(8))
def test_a_crash_keeps_what_was_forced_and_a_beginning_of_the_rest(seed: int) -> None:
    found = store()
    for number in (2, 3, 4, 5):
        txn = Txn()
        txn.writes[PLACE] = number
        length = found.append(Record("commit", writes=txn.writes))
        found.end(txn, apply=True)
        if number == 3:
            found.force(length)
    found.crash(Random(seed))
    assert found.tables["account"]["a"] in (3, 4, 5)
    assert found.tables["account"]["b"] == 1


def test_a_prepared_branch_survives_a_crash_with_its_locks() -> None:
    found = store()
    txn = Txn()
    txn.writes[PLACE] = 7
    found.force(found.append(Record("prepare", "branch", txn.writes)))
    found.crash(Random(0))
    assert list(found.prepared) == ["branch"]
    assert found.tables["account"]["a"] == 1
    assert take(found, Txn()) is not None
    branch = found.prepared.pop("branch")
    found.force(found.append(Record("finish", "branch")))
    found.end(branch.txn, apply=True)
    found.crash(Random(0))
    assert (found.tables["account"]["a"], found.prepared) == (7, {})
