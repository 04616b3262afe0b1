"""The crash points: every boundary between two orders of the machine, by the shape of the transaction and how it ends.

C numbers are those of the recovery rules. "sent" points lie between a packet and its answer; SQLite has none, as no packet
travels: its own boundaries are in the journal's tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("postgresql", "mariadb", "sqlite")


@dataclass(frozen=True)
class Case:
    """One cell of the matrix: nodes in the order of enlistment, home first."""

    names: tuple[str, ...]
    end: str
    point: str
    c: str

    def __str__(self) -> str:
        return f"{self.c}-{'+'.join(self.names)}-{self.end}-{self.point.replace(' ', '_')}"


_BEGINNING = [("begun 1", "C1"), ("opened 1", "C2"), ("opened 2", "C2"), ("worked 1", "C3")]


def _commit(others: int) -> Iterator[tuple[str, str]]:
    yield from _BEGINNING
    yield from [("order Prepare 1", "C3"), ("sent Prepare 1", "C4"), ("fact Prepared 1", "C5")]
    for number in range(2, others + 1):
        yield from [(f"fact Prepared {number}", "C5"), (f"sent Prepare {number}", "C4")]
    yield from [("order Decide 1", "C6"), ("sent Decide 1", "C7"), ("fact DecisionDurable 1", "C8")]
    yield from [("order CommitBranch 1", "C8"), ("sent CommitBranch 1", "C9")]
    yield from [(f"fact BranchCommitted {number}", "C10") for number in range(1, others + 1)]
    yield ("order Forget 1", "C11")


def _refuse(others: int) -> Iterator[tuple[str, str]]:
    yield from [("order Prepare 1", "C3"), ("fact Refused 1", "C5")]
    if others > 1:
        # One branch promised before another refused: a tombstone first, then it is rolled back.
        yield from [("order Probe 1", "C6"), ("fact FoundAborted 1", "C8"), ("order RollbackBranch 2", "C8")]
        yield from [("sent RollbackBranch 2", "C9"), ("fact BranchRolledBack 2", "C10")]


def _raise(others: int) -> Iterator[tuple[str, str]]:
    yield from [("fact AbortRequested 1", "C3"), ("order RollbackBranch 1", "C3")]
    yield from [(f"fact BranchRolledBack {number}", "C3") for number in range(1, others + 2)]


_POINTS = {"commit": _commit, "refuse": _refuse, "raise": _raise}


def shapes() -> Iterator[tuple[str, ...]]:
    """Each kind as home, with one and with two others."""
    for turn in range(len(KINDS)):
        first, second, third = KINDS[turn:] + KINDS[:turn]
        yield from [(first, second), (first, third), (first, second, third)]


def has_packet(case: Case) -> bool:
    """Whether the node that the order goes to is spoken to by packets."""
    if not case.point.startswith("sent "):
        return True
    _, order, number = case.point.split()
    target = case.names[0] if order == "Decide" else case.names[int(number)] if order == "Prepare" else case.names[1]
    return target != "sqlite"


def cases() -> list[Case]:
    """The whole matrix."""
    found = [
        Case(names=names, end=end, point=point, c=c)
        for names, end in itertools.product(shapes(), _POINTS)
        for point, c in _POINTS[end](len(names) - 1)
    ]
    return [case for case in found if has_packet(case)]
