"""The shortest cycle of each kind, in the order of severity.

Whether a level's ground has a cycle is decided by ``graph.survey``, exactly and in linear time. The search for good examples is
limited: it finds the shortest ones unless hundreds of thousands of edges are tangled.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Final

from nodoubt.errors import InvariantBroken
from nodoubt.judge.graph import REALTIME, Graph, precedes, survey
from nodoubt.judge.levels import FORBIDDEN_BY, PROCESS_FORM, Level
from nodoubt.judge.shapes import GROUNDS, SEARCHES, Cycle, Shape

STEPS_MAX: Final = 200_000
"""So many edges are looked at in the search for one kind of cycle: a fifth of a second."""

_REACH_FIRST: Final = 3
_REACH_FACTOR: Final = 3
"""Ways of up to 3 edges are tried from everywhere first, then those of up to 9, and so on: most cycles are short."""

_Place = tuple[int, int]
"""A transaction, and the state of the shape in which a way arrived there."""
_Came = dict[_Place, tuple[_Place, int] | None]
"""For each place, the one before it and the kind of the edge between; None for the first."""


def cycles(graph: Graph) -> list[Cycle]:
    """One short cycle of each kind that is there, the gravest first.

    For each level whose ground has a cycle there is one that it forbids. The form with an order is left out where the plain one
    is there, and that in real time where that of a process is.
    """
    search = _Search(graph)
    found: dict[str, Cycle] = {}
    for name, level, shape in SEARCHES:
        if search.tangles[level] and name not in found and f"{name}{PROCESS_FORM}" not in found:
            cycle = search.shortest(level, shape)
            if cycle is not None:
                found.setdefault(cycle.name, cycle)
    for level, tangled in search.tangles.items():
        if tangled and not any(level in FORBIDDEN_BY[name] for name in found):
            cycle = search.any(level)
            found.setdefault(cycle.name, cycle)
    gravity = list(FORBIDDEN_BY)
    return sorted(found.values(), key=lambda cycle: gravity.index(cycle.name))


class _Search:
    """The tangled transactions of each level's ground, and ways through them."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.tangles: dict[Level, Sequence[int]] = dict.fromkeys(Level, ())
        """By level, the transactions that are in a cycle of its ground; of a ground in real time, where one begins."""
        # Each ground is a part of others; where they have no cycle, it is not looked at. A cycle through a process, for example,
        # is one in real time as well.
        self._earliest = self._look(Level.SERIALIZABLE, Level.STRICT_SERIALIZABLE)
        if self.tangles[Level.STRICT_SERIALIZABLE]:
            self._look(Level.STRONG_SESSION_SERIALIZABLE)
        if any(self.tangles.values()):
            self._look(Level.SNAPSHOT_ISOLATION, Level.STRONG_SNAPSHOT_ISOLATION)
        if self.tangles[Level.STRONG_SNAPSHOT_ISOLATION]:
            self._look(Level.STRONG_SESSION_SNAPSHOT_ISOLATION)
        if self.tangles[Level.SNAPSHOT_ISOLATION]:
            self._look(Level.READ_COMMITTED)
        if self.tangles[Level.READ_COMMITTED]:
            self._look(Level.READ_UNCOMMITTED)

    def _look(self, level: Level, in_real_time: Level | None = None) -> list[int]:
        """Find what is tangled at a level, and at the same one in real time; returns the first end that each number leads to."""
        graph, ground = self._graph, GROUNDS[level]
        copies = 2 if ground.split else 1
        successors = (graph.split if ground.split else graph.whole)(ground.kinds)
        found = survey(successors, [end for end in graph.end for _ in range(copies)])
        self.tangles[level] = sorted(
            {place // copies for knot in found.knots for place in knot if place // copies < graph.transactions}
        )
        earliest = found.earliest[::copies]
        if in_real_time is not None:
            begin = graph.begin
            self.tangles[in_real_time] = [
                number for number in range(graph.transactions) if precedes(earliest[number], begin[number])
            ]
        return earliest

    def shortest(self, level: Level, shape: Shape) -> Cycle | None:
        """The shortest cycle of a shape at a level, or the shortest that is found in time; none that meets itself on its way."""
        ways = self._ways(level, shape, STEPS_MAX)
        starts = [start for start in self.tangles[level] if ways.begins(start)]
        best, reach, cut = None, _REACH_FIRST, True
        while best is None and cut:
            cut = False
            for start in starts:
                cycle = ways.back_to(start, reach)
                cut = cut or ways.was_cut
                if cycle is not None and len(set(cycle.numbers)) == len(cycle.numbers):
                    best, reach = cycle, len(cycle.numbers) - 1
                if ways.steps <= 0 or reach < 2:
                    return best
            reach *= _REACH_FACTOR
        return best

    def any(self, level: Level) -> Cycle:
        """Some cycle at a level where there is one."""
        ways = self._ways(level, GROUNDS[level].shape, sys.maxsize)
        for start in self.tangles[level]:
            if cycle := ways.back_to(start, sys.maxsize):
                return cycle
        raise InvariantBroken(f"there is a cycle at {level}, and no way leads along it")

    def _ways(self, level: Level, shape: Shape, steps: int) -> _Ways:
        if GROUNDS[level].in_real_time:
            return _Ways(self._graph, shape, self._earliest, self._graph.begin, steps)
        outside = bytearray(b"\1") * len(self._graph.begin)
        for number in self.tangles[level]:
            outside[number] = 0
        return _Ways(self._graph, shape, outside, None, steps)


class _Ways:
    """Ways of one shape. ``steps`` more edges may be looked at.

    In real time (``begin`` is given) a way is complete at a transaction that ended before its first one began; otherwise, where
    it began. ``rank`` tells where a way may lead at all: to what ranks below the first one's begin, or below 1.
    """

    def __init__(
        self, graph: Graph, shape: Shape, rank: Sequence[int], begin: Sequence[int] | None, steps: int
    ) -> None:
        self._graph = graph
        self._shape = shape
        self._rank = rank
        self._begin = begin
        self.steps = steps
        self.was_cut = False
        """Whether the last way was given up because it became too long."""

    def begins(self, start: int) -> bool:
        """Whether a way can begin there."""
        return any(self._graph.edges[kind][start] for kind in self._shape.moves[0])

    def back_to(self, start: int, reach: int) -> Cycle | None:
        """The shortest cycle with at most ``reach`` edges, breadth first."""
        shape, rank, end = self._shape, self._rank, self._graph.end
        limit = 1 if self._begin is None else self._begin[start]
        came: _Came = {(start, 0): None}
        frontier = [(start, 0)]
        self.was_cut = False
        for _ in range(reach if self._begin is None else reach - 1):
            reached = []
            for place in frontier:
                for kind, target, state in self._edges(place):
                    arrives = target == start if self._begin is None else precedes(end[target], limit)
                    if arrives and state in shape.ends:
                        return self._cycle(came, place, kind, target)
                    after = target, state
                    if after not in came and rank[target] < limit:
                        came[after] = place, kind
                        reached.append(after)
            if not reached or self.steps <= 0:
                return None
            frontier = reached
        self.was_cut = True
        return None

    def _edges(self, place: _Place) -> Iterator[tuple[int, int, int]]:
        """Kind, target and next state of each edge that a way may take; through a point as if it were not there."""
        number, state = place
        for kind, following in self._shape.moves[state].items():
            for target in self._graph.edges[kind][number]:
                for writer in self._graph.points.get(target, (target,)):
                    self.steps -= 1
                    yield kind, writer, following

    def _cycle(self, came: _Came, last: _Place, kind: int, target: int) -> Cycle:
        """The way to the last place, the edge from there to the target, and from a target that is not the first: real time."""
        numbers, kinds = [target, last[0]], [kind]
        while step := came[last]:
            last, kind = step
            numbers.append(last[0])
            kinds.append(kind)
        numbers.reverse()
        kinds.reverse()
        if self._begin is None:
            numbers.pop()
        else:
            kinds.append(REALTIME)
        return Cycle(tuple(numbers), tuple(kinds))
