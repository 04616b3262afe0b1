"""What a run amounts to. Nothing here is expected: all of it is computed from what was observed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from enum import StrEnum
from itertools import permutations

from tests.isolation.notation import NODES, SETUP, STATE, TABLE, Script, Seen, Statement


class Verdict(StrEnum):
    """How a script ended. The first that is true counts."""

    OCCURS = "occurs"
    OTHER = "another anomaly"
    DEADLOCK = "deadlock"
    FAILS = "fails"
    WAITS = "waits"
    ABSENT = "absent"


MEANING = {
    Verdict.OCCURS: "the anomaly happened",
    Verdict.OTHER: "not this one, but no serial order of the transactions explains what they read and left behind",
    Verdict.DEADLOCK: "each waits for another, on two nodes, and no server sees it until a time-out ends one",
    Verdict.FAILS: "one transaction was aborted, with an error that may be retried",
    Verdict.WAITS: "somebody had to wait, and then all was well",
    Verdict.ABSENT: "nobody waited, and all was well",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was observed of a script on real servers."""

    seen: Seen
    #: Transactions that waited for a lock.
    waited: frozenset[str]
    #: Those that aborted although they meant to commit.
    failed: frozenset[str]
    #: Of these, the ones that were given up, as all that were left waited for each other.
    given_up: frozenset[str]


def verdict(script: Script, run: Run) -> Verdict:
    """The verdict on one run."""
    occurred, is_serial = script.occurred(run.seen), is_serializable(script, run.seen)
    if occurred:
        assert not is_serial, f"{script.name}: a serial order explains what its condition calls an anomaly"
        return Verdict.OCCURS
    if not is_serial:
        return Verdict.OTHER
    if run.given_up:
        return Verdict.DEADLOCK
    if run.failed:
        return Verdict.FAILS
    return Verdict.WAITS if run.waited else Verdict.ABSENT


def is_serializable(script: Script, seen: Seen) -> bool:
    """Whether the transactions that committed, one after another in some order, read the same and leave the same behind."""
    return any(_one_by_one(script, order) == _of(script, seen, order) for order in permutations(sorted(seen.committed)))


def _of(script: Script, seen: Seen, names: Iterable[str]) -> Seen:
    """What these transactions have to do with a run: their reads, and the state."""
    labels = {step.label for step in script.steps if isinstance(step, Statement) and step.who in names}
    reads = {label: value for label, value in seen.reads.items() if label in labels}
    return Seen(reads=reads, committed=seen.committed, state=seen.state)


def _one_by_one(script: Script, order: Sequence[str]) -> Seen:
    """What the script's own statements do when its transactions run in this order, each alone."""
    reads: dict[str, int] = {}
    with ExitStack() as stack:
        nodes = {name: stack.enter_context(closing(sqlite3.connect(":memory:"))) for name in NODES}
        for node in nodes.values():
            for sql in (TABLE, *SETUP):
                node.execute(sql)
        for who in order:
            for step in script.steps:
                if isinstance(step, Statement) and step.who == who:
                    rows = nodes[step.node].execute(step.sql.format_map(reads)).fetchall()
                    if step.label:
                        ((reads[step.label],),) = rows
        state = {name: dict(node.execute(STATE).fetchall()) for name, node in nodes.items()}
    return Seen(reads=reads, committed=frozenset(order), state=state)
