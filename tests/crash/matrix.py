"""The crash matrix: every way to go wrong x moment x end x home x branches x who settles, with the cases that run there.

The one source of the crash tests: each takes its cases from here, and ``docs/crash-matrix.md`` is drawn from here. A cell
without a case carries the reason why there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

from nodoubt.testing.proxy_faults import Arrives, Then
from tests.crash.points import KINDS, Case, boundaries, by_hand, failing_disks, packets, purging, settling

MOMENTS = {
    "C1": "after begin",
    "C2": "a branch is open, no work yet",
    "C3": "worked, PREPARE not sent",
    "C4": "PREPARE sent, no reply",
    "C5": "some are prepared",
    "C6": "all are prepared, the decision not sent",
    "C7": "the decision sent, no reply",
    "C8": "decided, no branch told",
    "C9": "a branch told, no reply",
    "C10": "some are finished",
    "C11": "all finished, the row not marked complete",
    "C12": "during purge",
}


class Cell(NamedTuple):
    """One cell of a form's table."""

    moment: str
    end: str
    home: str
    branches: int
    settled_by: str


def cell_of(case: Case) -> Cell:
    """Where a case belongs: a block that raises and a branch that refuses both abort."""
    end = "commit" if case.end == "commit" else "abort"
    return Cell(case.c, end, case.names[0], len(case.names), case.settled_by)


@dataclass(frozen=True, kw_only=True)
class Never:
    """Why cells have no case. Empty values match all."""

    why: str
    moments: Sequence[str] = ()
    ends: Sequence[str] = ()
    homes: Sequence[str] = ()
    branches: Sequence[int] = ()
    settlers: Sequence[str] = ()

    def covers(self, cell: Cell) -> bool:
        """Whether it is about this cell."""
        axes = (self.moments, self.ends, self.homes, self.branches, self.settlers)
        return all(not values or value in values for value, values in zip(cell, axes, strict=True))


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to go wrong: the axes of its table, the test of its cases, and why some cells have none."""

    name: str
    rule: str
    what: str
    test: str
    cases: tuple[Case, ...]
    moments: Sequence[str]
    ends: Sequence[str] = ("commit",)
    homes: Sequence[str] = KINDS
    branches: Sequence[int] = (2, 3)
    settlers: Sequence[str] = ("another",)
    never: tuple[Never, ...] = ()

    @property
    def cells(self) -> Iterator[Cell]:
        """The whole product of its axes."""
        yield from map(Cell._make, product(self.moments, self.ends, self.homes, self.branches, self.settlers))


def span(first: int, last: int) -> tuple[str, ...]:
    """Moments from one to another."""
    return tuple(f"C{number}" for number in range(first, last + 1))


def _but(*nevers: Never, moments: Sequence[str]) -> tuple[Never, ...]:
    """The same reasons, at these moments only."""
    return tuple(replace(never, moments=[c for c in never.moments if c in moments]) for never in nevers)


_UNASKED = span(1, 3)
_NO_PACKET = "no packet travels to SQLite; `tests/nodes/test_sqlite_crash.py` goes through its journal's boundaries"
_SQLITE_HOME = Never(why=_NO_PACKET, moments=("C6", "C7", "C11"), homes=("sqlite",))
_ONE_OTHER = Never(why="with one other branch, some is all or none", moments=("C5", "C10"), branches=(2,))
_SIBLING = Never(
    why="its sibling goes on meanwhile: C5 and C10", moments=("C3", "C4", "C8", "C9"), ends=("commit",), branches=(3,)
)
_NOTHING_PROMISED = Never(
    why="the only other branch refuses: nothing is promised", moments=span(6, 11), ends=("abort",), branches=(2,)
)
_FIRST_IS_SQLITE = Never(
    why="the branch in question is SQLite's, and no packet travels there",
    moments=("C8", "C9"),
    homes=("mariadb",),
    branches=(3,),
)
_NO_ROW = Never(why="an aborted transaction has no row to mark", moments=("C11",), ends=("abort",))
#: Of a kill between a request and its reply.
_UNSENT = (
    replace(_SQLITE_HOME, moments=("C7",)),
    replace(_FIRST_IS_SQLITE, moments=("C9",)),
)


def _settled_by(cases: Iterator[Case], *settlers: str) -> Iterator[Case]:
    for case in cases:
        # Up to C3, and without another branch, nothing is left to settle.
        for settler in settlers if case.c not in _UNASKED and len(case.names) > 1 else settlers[:1]:
            yield replace(case, settled_by=settler)


KILLED = Form(
    name="killed",
    rule="C1-C11, C14",
    what="The process is killed with -9. Then another process settles, or a restarted one, or two at once.",
    test="test_kill.py::test_killed",
    cases=tuple(_settled_by(boundaries(), "another", "restarted", "two")),
    moments=span(1, 11),
    ends=("commit", "abort"),
    branches=(1, 2, 3),
    settlers=("another", "restarted", "two"),
    never=(
        Never(
            why="nothing was promised yet: nothing is left, whoever looks",
            moments=_UNASKED,
            settlers=("restarted", "two"),
        ),
        Never(why="nothing is prepared: nothing is left, whoever looks", branches=(1,), settlers=("restarted", "two")),
        Never(
            why="alone, home prepares nothing, and its row is complete at once",
            moments=("C4", "C5", *span(9, 11)),
            branches=(1,),
        ),
        Never(why="alone, home aborts by rolling back: C3", moments=span(6, 8), ends=("abort",), branches=(1,)),
        Never(why="no end is known yet", moments=("C1", "C2"), ends=("abort",)),
        Never(
            why="nobody heard what the reply says: the same as on the way to a commit", moments=("C4",), ends=("abort",)
        ),
        _NOTHING_PROMISED,
        _NO_ROW,
        *_UNSENT,
    ),
)

ZOMBIE = Form(
    name="stopped and woken",
    rule="C16",
    what="The process is stopped (SIGSTOP), another settles, then it goes on (SIGCONT) and meets what was decided.",
    test="test_zombie.py::test_stopped_settled_and_woken",
    cases=tuple(case for case in boundaries((2, 3), ("commit",)) if case.c in span(3, 9)),
    moments=span(3, 9),
    never=_UNSENT,
)

_SERVERS = ("postgresql", "mariadb")
SERVER_KILLED = Form(
    name="server killed",
    rule="C17",
    what="The process stands still, a server is killed with -9 and restarted, and the process goes on.",
    test="test_server_killed.py::test_server_killed",
    cases=tuple(
        replace(case, variant=f"{killed} dies")
        for case in boundaries((2, 3), ("commit",))
        if case.c in span(3, 11) and (case.names[0] == "sqlite" or set(case.names) >= set(_SERVERS))
        for killed in _SERVERS
        if killed in case.names
    ),
    moments=span(3, 11),
    never=_UNSENT,
)

#: Of packets: what travels where, on the way to a commit and to an abort.
_TRAVELS = (
    _ONE_OTHER,
    _SIBLING,
    _SQLITE_HOME,
    Never(
        why="what travels only on the way to an abort is home's probe and the rollback after it",
        moments=(*span(2, 5), "C10", "C11"),
        ends=("abort",),
    ),
    _NOTHING_PROMISED,
    replace(_FIRST_IS_SQLITE, ends=("abort",)),
)


def _lost(arrives: Sequence[Arrives]) -> tuple[Case, ...]:
    return tuple(packets(arrives, Then.CUT))


REQUEST_LOST = Form(
    name="request lost",
    rule="C18",
    what="The connection is cut before a request arrives, or in the middle of it.",
    test="test_network.py::test_lost",
    cases=_lost((Arrives.NOTHING, Arrives.HALF)),
    moments=("C3", "C5", "C6", "C8", "C10", "C11"),
    ends=("commit", "abort"),
    never=_TRAVELS,
)
REPLY_LOST = Form(
    name="reply lost",
    rule="C18",
    what="The connection is cut when a request has arrived, or has arrived twice, before its reply is passed back.",
    test="test_network.py::test_lost",
    cases=_lost((Arrives.ALL, Arrives.TWICE)),
    moments=("C4", "C5", "C7", "C9", "C10", "C11"),
    ends=("commit", "abort"),
    never=_TRAVELS,
)


def _hanging() -> Iterator[Case]:
    for case in boundaries((2, 3), ("commit",)):
        if case.point in ("opened 1", "worked 1"):
            yield replace(case, variant="HANG")


#: A block hangs at C2 and C3, with two branches and with three.
_HANGING_TRAVELS = (
    Never(why="a block that hangs has no end in sight", moments=("C2", "C3"), ends=("abort",)),
    *_but(*_TRAVELS, moments=span(4, 11)),
)


HALF_OPEN = Form(
    name="half-open until the time-out",
    rule="C18, C21",
    what="The block hangs, or a request or its reply never comes and nobody is told; the deadline ends the wait.",
    test="test_network.py::test_half_open",
    cases=(*_hanging(), *packets((Arrives.NOTHING, Arrives.ALL), Then.STALL)),
    moments=span(2, 11),
    ends=("commit", "abort"),
    never=_HANGING_TRAVELS,
)
DELAYED = Form(
    name="delayed past the settler",
    rule="C18",
    what="A request stays in the network until its sender was killed and everything was settled; then it arrives.",
    test="test_network.py::test_delayed_past_the_settler",
    cases=tuple(packets((Arrives.NOTHING,), Then.DELAY)),
    moments=REQUEST_LOST.moments,
    ends=("commit", "abort"),
    never=_TRAVELS,
)
SLOW_OWNER = Form(
    name="live, slow owner",
    rule="C15",
    what="A live owner waits for a request or its reply while another process settles, or its own background does.",
    test="test_network.py::test_settled_beneath_a_live_owner",
    cases=tuple(
        replace(case, settled_by=settler)
        for settler in ("another", "itself")
        for case in packets((Arrives.NOTHING, Arrives.ALL), Then.DELAY)
        if not case.point.startswith("COMPLETE")
    ),
    moments=span(3, 10),
    ends=("commit", "abort"),
    settlers=("another", "itself"),
    never=_TRAVELS,
)
CANCELLED = Form(
    name="cancelled",
    rule="C22",
    what="The task is cancelled while its block hangs, or while it waits for a request or its reply.",
    test="test_network.py::test_cancelled",
    cases=(
        *_hanging(),
        *(
            case
            for case in packets((Arrives.NOTHING, Arrives.ALL), Then.DELAY)
            if not case.point.startswith("COMPLETE")
        ),
    ),
    moments=span(2, 10),
    ends=("commit", "abort"),
    never=_HANGING_TRAVELS,
)

SETTLER_KILLED = Form(
    name="settler killed",
    rule="C13",
    what="A settler is killed with -9 between its own steps; another one finishes.",
    test="test_settler_killed.py::test_settler_killed",
    cases=tuple(settling()),
    moments=span(6, 11),
    ends=("commit", "abort"),
    never=(
        Never(
            why="a settler that finds a decision neither asks for one nor makes one",
            moments=("C6", "C7"),
            ends=("commit",),
        ),
        replace(_ONE_OTHER, moments=("C10",)),
        Never(why="one of the two is finished: C10", moments=("C9",), branches=(3,)),
        _NO_ROW,
    ),
)
PURGE_KILLED = Form(
    name="killed while purging",
    rule="C12",
    what="The process is killed with -9 between the steps of a purge; another one purges.",
    test="test_settler_killed.py::test_killed_while_purging",
    cases=tuple(purging()),
    moments=("C12",),
)
BY_HAND_RIGHT = Form(
    name="finished by hand",
    rule="C20",
    what="An operator finishes a prepared branch by plain SQL, as it is or will be decided, while its owner is dead or stands"
    " still.",
    test="test_by_hand.py::test_finished_as_decided",
    cases=tuple(replace(case, settled_by=settler) for case in by_hand() for settler in ("another", "itself")),
    moments=("C6", "C8"),
    ends=("commit", "abort"),
    settlers=("another", "itself"),
    never=(
        Never(
            why="at C6 the end is open: a dead owner's is an abort, in the row of commit",
            moments=("C6",),
            ends=("abort",),
        ),
        _NOTHING_PROMISED,
        replace(
            _FIRST_IS_SQLITE, ends=("abort",), why="the branch in question is SQLite's: there is no SQL to finish it by"
        ),
    ),
)
BY_HAND_WRONG = replace(
    BY_HAND_RIGHT,
    name="finished by hand, the other way",
    what="The same, against the decision: all others end as decided, and the caller and whoever looks are told which differs.",
    test="test_by_hand.py::test_finished_the_other_way",
)

_SQLITE_FORCES = Never(
    why="SQLite's disk faults are in `tests/nodes/test_sqlite_failures.py`",
    moments=("C5", "C6", "C11"),
    homes=("sqlite",),
)
_FORCED_MOMENTS = ("C3", "C5", "C6", "C8", "C11")
UNFORCED = Form(
    name="forced writes fail",
    rule="C19",
    what="Before an order for which a server must force its log, each fsync of it begins to fail; it dies and comes back.",
    test="test_disks.py::test_unforced",
    cases=tuple(failing_disks("cannot force", _SERVERS)),
    moments=_FORCED_MOMENTS,
    never=(
        replace(_ONE_OTHER, moments=("C5",)),
        _SQLITE_FORCES,
        replace(_FIRST_IS_SQLITE, moments=("C3", "C8"), why=_SQLITE_FORCES.why),
    ),
)
_ALLOCATED = "MariaDB commits into a log that was allocated before; a full disk fails statements: `test_full_beneath_a_statement`"
FULL = Form(
    name="disk full",
    rule="C19",
    what="The same with no byte left on the server's disk when its log needs another file.",
    test="test_disks.py::test_full",
    cases=tuple(failing_disks("full", ("postgresql",))),
    moments=_FORCED_MOMENTS,
    never=(
        replace(_ONE_OTHER, moments=("C5",)),
        _SQLITE_FORCES,
        Never(why=_ALLOCATED, moments=("C5", "C6", "C11"), homes=("mariadb",)),
        Never(why=_ALLOCATED, moments=("C3", "C8"), homes=("postgresql",)),
        replace(_FIRST_IS_SQLITE, moments=("C3", "C8"), why=_SQLITE_FORCES.why),
    ),
)

FORMS = {name: form for name, form in list(vars().items()) if isinstance(form, Form)}
