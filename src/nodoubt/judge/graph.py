"""Which transaction must come before which, and where that contradicts itself.

Lives here: the graph of dependencies, its strongly connected components, and real time. Knows nothing of keys, values and levels.

Real time needs no edges of its own. It is an interval order: when a ends before b begins, and c before d, then a ends before d
begins or c before b does. So of two edges of real time in a cycle one is always a short cut, and a cycle with any has one with
exactly one: a path from u to a v that ended before u began. Whether there is such a v is a minimum over what u reaches, which
falls out of the search for components, in linear time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from nodoubt.judge.history import NEVER

WW, WR, RW, PROCESS, REALTIME = range(5)
KINDS: Final = ("ww", "wr", "rw", "process", "realtime")
"""What an edge says: wrote over it, was read by it, read what it overwrote; came before it in one process, or in real time."""


def precedes(end: int, begin: int) -> bool:
    """Whether what ended at ``end`` came before what began at ``begin``, in real time."""
    return end < begin


class Graph:
    """Edges by kind, from and to the numbers of transactions.

    Numbers behind those of the transactions are *points*: the moment at which a version was overwritten by one of several
    writers of which nobody knows the first. All its readers come before the point, and the point before all these writers.
    """

    def __init__(self, begin: Sequence[int], end: Sequence[int]) -> None:
        self.transactions = len(begin)
        self.begin = list(begin)
        self.end = list(end)
        self.edges: tuple[list[list[int]], ...] = tuple([[] for _ in begin] for _ in (WW, WR, RW, PROCESS))
        self.points: dict[int, Sequence[int]] = {}

    def overwrite(self, readers: Sequence[int], writers: Sequence[int]) -> None:
        """Add what follows when the version that ``readers`` read comes before those of each of the ``writers``.

        Of readers that are writers as well at most one is looked at: two of them are a lost update, which every level that
        looks at rw edges forbids.
        """
        if not readers or not writers:
            return
        rw = self.edges[RW]
        if len(writers) == 1:
            (writer,) = writers
            for reader in readers:
                if reader != writer:
                    rw[reader].append(writer)
            return
        among = set(writers)
        both = among.intersection(readers)
        if outside := [reader for reader in readers if reader not in both]:
            point = self._point(writers)
            for reader in outside:
                rw[reader].append(point)
        if len(both) == 1:
            (reader,) = both
            rw[reader] += [writer for writer in writers if writer != reader]

    def _point(self, writers: Sequence[int]) -> int:
        point = len(self.begin)
        self.begin.append(-1)
        self.end.append(NEVER)
        for edges in self.edges:
            edges.append([])
        self.points[point] = writers
        return point

    def whole(self, kinds: Iterable[int]) -> list[list[int]]:
        """The successors of each number by edges of these kinds."""
        first, *others = (self.edges[kind] for kind in kinds)
        joined = [list(targets) for targets in first]
        for edges in others:
            for targets, more in zip(joined, edges, strict=True):
                targets.extend(more)
        for point, writers in self.points.items():
            joined[point] = list(writers)
        return joined

    def split(self, kinds: Iterable[int]) -> list[list[int]]:
        """The product graph of snapshot isolation: each number n is there twice, as ``2n`` and as ``2n + 1``.

        ``2n`` is the start of n's snapshot and ``2n + 1`` its commit: an rw edge leads from a start to a commit, every other one
        from a commit (and so from the start before it, too) to a start. A cycle here is one without two rw edges in a row there.
        """
        joined: list[list[int]] = []
        plain = self.whole(kind for kind in kinds if kind != RW)
        for number, (others, overwriters) in enumerate(zip(plain, self.edges[RW], strict=True)):
            if number in self.points:
                joined += [], [2 * writer + 1 for writer in others]
            else:
                starts = [2 * target for target in others]
                joined += starts + [2 * target + 1 for target in overwriters], starts
        return joined


@dataclass(frozen=True, slots=True)
class Survey:
    """What the search for components found."""

    knots: list[list[int]]
    """The components of more than one number: each is full of cycles, and every cycle is in one."""
    earliest: list[int]
    """For each number, the first end of a transaction that it leads to."""


def survey(successors: Sequence[Sequence[int]], ends: Sequence[int]) -> Survey:
    """Tarjan's strongly connected components, without recursion; ``ends`` says when each number ended."""
    done = len(successors) + 1
    index = [0] * len(successors)
    low = [0] * len(successors)
    earliest = list(ends)
    knots: list[list[int]] = []
    stack: list[int] = []
    count = 0
    for root in range(len(successors)):
        if index[root]:
            continue
        path: list[tuple[int, Iterator[int]]] = []
        enter: int | None = root
        while enter is not None or path:
            if enter is not None:
                count += 1
                index[enter] = low[enter] = count
                stack.append(enter)
                path.append((enter, iter(successors[enter])))
                enter = None
            number, rest = path[-1]
            for target in rest:
                if not index[target]:
                    enter = target
                    break
                # No min(): this is where the time goes.
                if (seen := index[target]) < low[number]:
                    low[number] = seen
                if (ended := earliest[target]) < earliest[number]:
                    earliest[number] = ended
            else:
                path.pop()
                if low[number] == index[number]:
                    members = _pop(stack, number)
                    first = min(map(earliest.__getitem__, members))
                    for member in members:
                        index[member] = low[member] = done
                        earliest[member] = first
                    if len(members) > 1:
                        knots.append(members)
                if path:
                    above = path[-1][0]
                    low[above] = min(low[above], low[number])
                    earliest[above] = min(earliest[above], earliest[number])
    return Survey(knots, earliest)


def _pop(stack: list[int], last: int) -> list[int]:
    """Take everything down to ``last`` from the stack."""
    place = len(stack) - 1
    while stack[place] != last:
        place -= 1
    members = stack[place:]
    del stack[place:]
    return members
