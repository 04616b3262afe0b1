"""The crash points: every boundary between two orders of the machine, by the shape of the transaction and how it ends.

C numbers are those of the recovery rules. "sent" points and packets lie between a request and its answer; SQLite has none, as
no packet travels: its own boundaries are in the journal's tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nodoubt.testing.proxy_faults import Arrives, Statement, Then

KINDS = ("postgresql", "mariadb", "sqlite")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run: nodes in the order of enlistment, home first; where it goes wrong, and who settles what is left."""

    names: tuple[str, ...]
    end: str
    point: str
    c: str
    settled_by: str = "another"
    variant: str = ""

    def __str__(self) -> str:
        parts = (self.c, "+".join(self.names), self.end, self.point, self.variant, self.settled_by)
        return "-".join(part.replace(" ", "_") for part in parts if part)


_BEGINNING = [("begun 1", "C1"), ("opened 1", "C2"), ("worked 1", "C3")]


def _commit(others: int) -> Iterator[tuple[str, str]]:
    yield from _BEGINNING
    if others:
        yield from [("opened 2", "C2"), ("order Prepare 1", "C3"), ("sent Prepare 1", "C4"), ("fact Prepared 1", "C5")]
    for number in range(2, others + 1):
        yield from [(f"fact Prepared {number}", "C5"), (f"sent Prepare {number}", "C4")]
    yield from [("order Decide 1", "C6"), ("sent Decide 1", "C7"), ("fact DecisionDurable 1", "C8")]
    if others:
        yield from [("order CommitBranch 1", "C8"), ("sent CommitBranch 1", "C9")]
        yield from [(f"fact BranchCommitted {number}", "C10") for number in range(1, others + 1)]
        yield ("order Forget 1", "C11")


def _refuse(others: int) -> Iterator[tuple[str, str]]:
    if others:
        yield from [("order Prepare 1", "C3"), ("fact Refused 1", "C5")]
    if others > 1:
        # One branch promised before another refused: a tombstone first, then it is rolled back.
        yield from [
            ("order Probe 1", "C6"),
            ("sent Probe 1", "C7"),
            ("fact FoundAborted 1", "C8"),
            ("order RollbackBranch 2", "C8"),
        ]
        yield from [("sent RollbackBranch 2", "C9"), ("fact BranchRolledBack 2", "C10")]


def _raise(others: int) -> Iterator[tuple[str, str]]:
    yield from [("fact AbortRequested 1", "C3"), ("order RollbackBranch 1", "C3")]
    yield from [(f"fact BranchRolledBack {number}", "C3") for number in range(1, others + 2)]


_POINTS = {"commit": _commit, "refuse": _refuse, "raise": _raise}


def shapes(branches: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """Each kind as home, alone, with each other one, and with both."""
    for turn in range(len(KINDS)):
        first, second, third = KINDS[turn:] + KINDS[:turn]
        found = [(first,), (first, second), (first, third), (first, second, third)]
        yield from [names for names in found if len(names) in branches]


def boundaries(branches: Sequence[int] = (1, 2, 3), ends: Sequence[str] = tuple(_POINTS)) -> Iterator[Case]:
    """Every boundary of a live transaction."""
    for names, end in itertools.product(shapes(branches), ends):
        for point, c in _POINTS[end](len(names) - 1):
            case = Case(names=names, end=end, point=point, c=c)
            if not point.startswith("sent ") or addressee(case) != "sqlite":
                yield case


def addressee(case: Case) -> str:
    """The node that the request of a "sent" point goes to."""
    _, order, number = case.point.split()
    return case.names[{"Decide": 0, "Probe": 0, "Prepare": int(number)}.get(order, 1)]


#: What travels on the way to a commit: the request, the number of its branch, and the moments before and after it arrives.
_PAIR = [(Statement.PREPARE, 1, "C3", "C4"), (Statement.COMMIT_BRANCH, 1, "C8", "C9")]
_TRIPLE = [
    *((Statement.PREPARE, number, "C5", "C5") for number in (1, 2)),
    *((Statement.COMMIT_BRANCH, number, "C10", "C10") for number in (1, 2)),
]
_HOME = [(Statement.DECIDE, 0, "C6", "C7"), (Statement.COMPLETE, 0, "C11", "C11")]
#: One branch promised before another refused.
_REFUSED = [(Statement.PROBE, 0, "C6", "C7"), (Statement.ROLLBACK_BRANCH, 1, "C8", "C9")]


def packets(arrives: Sequence[Arrives], then: Then) -> Iterator[Case]:
    """Every request of a live transaction, with a fault of the network."""
    for names, what in itertools.product(shapes((2, 3)), arrives):
        commit = [*_HOME, *(_PAIR if len(names) == 2 else _TRIPLE)]
        travels = [("commit", *row) for row in commit] + [("refuse", *row) for row in _REFUSED if len(names) == 3]
        for end, statement, number, before, after in travels:
            if names[number] != "sqlite":
                c = before if what in (Arrives.NOTHING, Arrives.HALF) else after
                point = f"{statement.name} {number}"
                variant = f"{what.name} {then.name}"
                yield Case(names=names, end=end, point=point, c=c, variant=variant)


#: What a settler does to a branch whose transaction was decided by nobody, and to one that was decided.
_UNDECIDED = [("before prepared 1", "C6"), ("before probe 1", "C6"), ("after probe 1", "C7"), ("before finish 1", "C8")]
_DECIDED = [("before decisions 1", "C8"), ("after decisions 1", "C8"), ("before finish 1", "C8")]
_MARKING = [("before complete 1", "C11"), ("after complete 1", "C11"), ("after drop_evidence 1", "C11")]


def settling() -> Iterator[Case]:
    """Every boundary between two steps of a settler, with one other branch and with two."""
    for names in _one_shape_each():
        finished = [("after finish 1", "C9" if len(names) == 2 else "C10")]
        for end, points in (("abort", _UNDECIDED + finished), ("commit", _DECIDED + finished + _MARKING)):
            yield from [Case(names=names, end=end, point=point, c=c) for point, c in points]


def purging() -> Iterator[Case]:
    """Between the steps of a purge."""
    for names in _one_shape_each():
        for point in ("before purge 1", "after purge 1", "after purge 3"):
            yield Case(names=names, end="commit", point=point, c="C12")


def by_hand() -> Iterator[Case]:
    """Every moment at which a branch of a server is prepared and its owner stands still or is gone."""
    for names in shapes((2, 3)):
        points = [("commit", "order Decide 1", "C6"), ("commit", "order CommitBranch 1", "C8")]
        if len(names) == 3 and names[1] != "sqlite":
            points.append(("refuse", "order RollbackBranch 2", "C8"))
        if names[1:] != ("sqlite",):
            yield from [Case(names=names, end=end, point=point, c=c) for end, point, c in points]


#: The order that each point comes before, by the branch whose server has to force its log for it.
_FORCING = {
    "order Prepare 1": 1,
    "fact Prepared 1": 0,
    "order Decide 1": 0,
    "order CommitBranch 1": 1,
    "order Forget 1": 0,
}


def failing_disks(fault: str, kinds: Sequence[str]) -> Iterator[Case]:
    """Before each order for which a server of these kinds has to force its log."""
    for case in boundaries((2, 3), ("commit",)):
        number = _FORCING.get(case.point)
        # With one other branch, some is all or none.
        if number is not None and case.names[number] in kinds and (case.c, len(case.names)) != ("C5", 2):
            yield replace(case, variant=f"{case.names[number]} {fault}")


def _one_shape_each() -> Iterator[tuple[str, ...]]:
    for turn, home in enumerate(KINDS):
        others = KINDS[turn + 1 :] + KINDS[:turn]
        yield from [(home, others[0]), (home, *others)]
