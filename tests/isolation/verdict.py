"""What a run amounts to. Nothing here is expected: all of it is computed from what was observed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import combinations, pairwise, permutations

from tests.isolation.notation import NODES, SETUP, STATE, TABLE, Script, Seen, Statement

#: The rows of all nodes: node, k and v.
State = frozenset[tuple[str, int, int]]


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
    #: Pairs of transactions of which the one was over, as its caller was told, before the other began.
    before: frozenset[tuple[str, str]]


def verdict(script: Script, run: Run) -> Verdict:
    """The verdict on one run."""
    occurred, is_serial = script.occurred(run.seen), is_serializable(script, run)
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


def is_serializable(script: Script, run: Run) -> bool:
    """Whether the transactions that committed, one after another in some order, read the same and leave the same behind.

    Who was over before another began comes before it.
    """
    return any(
        _one_by_one(script, order) == (_reads(script, run, order), _state(run))
        for order in permutations(sorted(run.seen.committed))
        if not any((later, earlier) in run.before for earlier, later in combinations(order, 2))
    )


def is_snapshot(script: Script, run: Run) -> bool:
    """Whether global snapshot isolation explains a run.

    There must be an order of the commits, and in it for each transaction a place where all of its snapshots were opened: it
    read what was there and its own writes; nobody else committed a write of the same rows between its opening and its
    commit; and who was over before it began had committed before its opening.
    """
    return _goes_on(script, run, [_start()], [])


def _goes_on(script: Script, run: Run, states: list[State], order: list[str]) -> bool:
    """Whether the other transactions can follow those in ``order``. ``states`` are those before and after each commit."""
    left = run.seen.committed.difference(order)
    if not left:
        return states[-1] == _state(run)
    return any(
        _goes_on(script, run, [*states, after], [*order, who])
        for who in left
        for opened in range(len(states))
        if not any((other, who) in run.before for other in [*order[opened:], *left])
        for after in _commit(script, run, who, states[opened:])
    )


def _commit(script: Script, run: Run, who: str, states: Sequence[State]) -> Iterator[State]:
    """The state after the commit of a transaction that was opened at the first of these; none if that cannot be."""
    opened, now = states[0], states[-1]
    reads, alone = _alone(script, who, opened)
    own = _rows(alone - opened)
    others = {row for old, new in pairwise(states) for row in _rows(new - old)}
    if reads == _reads(script, run, [who]) and not own & others:
        yield frozenset(row for row in now if row[:2] not in own) | (alone - opened)


def _rows(state: State) -> set[tuple[str, int]]:
    return {(node, k) for node, k, _ in state}


def _reads(script: Script, run: Run, names: Sequence[str]) -> Mapping[str, int]:
    """What these transactions read in a run."""
    labels = {step.label for step in script.steps if isinstance(step, Statement) and step.who in names}
    return {label: value for label, value in run.seen.reads.items() if label in labels}


def _state(run: Run) -> State:
    return frozenset((node, k, v) for node, rows in run.seen.state.items() for k, v in rows.items())


def _one_by_one(script: Script, order: Sequence[str]) -> tuple[Mapping[str, int], State]:
    """What the script's transactions read when they run in this order, each alone, and what they leave behind."""
    reads: dict[str, int] = {}
    state = _start()
    for who in order:
        own, state = _alone(script, who, state)
        reads.update(own)
    return reads, state


@cache
def _start() -> State:
    with closing(sqlite3.connect(":memory:")) as table:
        for sql in (TABLE, *SETUP):
            table.execute(sql)
        return frozenset((node, k, v) for node in NODES for k, v in table.execute(STATE))


@cache
def _alone(script: Script, who: str, state: State) -> tuple[Mapping[str, int], State]:
    """What the script's own statements do when one of its transactions runs alone."""
    reads: dict[str, int] = {}
    with ExitStack() as stack:
        nodes = {name: stack.enter_context(closing(sqlite3.connect(":memory:"))) for name in NODES}
        for name, node in nodes.items():
            node.execute(TABLE)
            node.executemany("INSERT INTO item VALUES (?, ?)", [(k, v) for at, k, v in state if at == name])
        for step in script.steps:
            if isinstance(step, Statement) and step.who == who:
                rows = nodes[step.node].execute(step.sql.format_map(reads)).fetchall()
                if step.label:
                    ((reads[step.label],),) = rows
        return reads, frozenset((name, k, v) for name, node in nodes.items() for k, v in node.execute(STATE))
