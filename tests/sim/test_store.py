"""What every simulated database is made of: locks, and a log of which a crash keeps what was forced."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from nodoubt.sim.locks import EXCLUSIVE, Deadlock, LockWait, Txn
from nodoubt.sim.store import Record, Store

PLACE = ("account", "a")


def store() -> Store:
    return Store({"account": {"a": 1, "b": 1}})


def take(found: Store, txn: Txn, place: Any = PLACE, mode: str = EXCLUSIVE) -> LockWait | None:
    """Ask for a lock; the wait, if there is one."""
    steps = found.lock(txn, place, None, mode)
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


def test_a_lock_is_shared_in_one_mode() -> None:
    found = store()
    readers = [Txn(), Txn()]
    assert [take(found, txn, mode="read") for txn in readers] == [None, None]
    other, late = take(found, Txn(), mode="other"), take(found, Txn(), mode="read")
    assert other is not None
    assert late is not None, "nobody overtakes who waits"
    order: list[str] = []
    other.wake, late.wake = (lambda got: order.append("other")), (lambda got: order.append("late"))
    found.end(readers[0], apply=False)
    assert order == []
    found.end(readers[1], apply=False)
    found.end(other.txn, apply=False)
    assert order == ["other", "late"]


def test_who_has_a_share_alone_may_have_it_all() -> None:
    found = store()
    first, second = Txn(), Txn()
    take(found, first, mode="read")
    assert take(found, first) is None
    assert take(found, second, mode="read") is not None
    both, first, second = store(), Txn(), Txn()
    take(both, first, mode="read")
    take(both, second, mode="read")
    assert take(both, first) is not None
    with pytest.raises(Deadlock):
        take(both, second)


def test_who_looks_sees_what_there_was() -> None:
    found = store()
    viewer, writer = Txn(), Txn()
    found.look(viewer)
    for number in (2, 3):
        writer.writes[PLACE] = number
        found.apply(writer.writes)
    assert (found.seen(viewer, *PLACE), found.read(viewer, *PLACE)) == (1, 3)
    assert found.all_seen(viewer, "account") == {"a": 1, "b": 1}
    found.end(viewer, apply=False)
    found.apply({PLACE: 4})
    assert viewer.view == {PLACE: 1}, "whoever looked no more costs nothing"


def test_a_prepared_branch_keeps_what_it_shares_through_a_crash() -> None:
    found = store()
    txn = Txn()
    key = ("key", 1)
    take(found, txn, key, "read")
    found.force(found.append(Record("prepare", "branch", txn.writes, found.kept(txn, "key"))))
    found.crash(Random(0))
    assert take(found, Txn(), key) is not None
    assert take(store(), Txn(), key) is None


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
