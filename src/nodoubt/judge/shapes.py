"""What the cycles look like: of each anomaly, and those that each level forbids.

Lives here: tables. Knows no graph; ``cycles.py`` looks for these shapes in one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from nodoubt.judge.graph import PROCESS, REALTIME, RW, WR, WW
from nodoubt.judge.levels import CYCLES, PROCESS_FORM, REALTIME_FORM, Level

_FORMS: Final = {PROCESS: PROCESS_FORM, REALTIME: REALTIME_FORM}


@dataclass(frozen=True, slots=True)
class Cycle:
    """``numbers[i]`` comes before ``numbers[i + 1]``, and the last before the first, by an edge of ``kinds[i]``."""

    numbers: tuple[int, ...]
    kinds: tuple[int, ...]

    @property
    def name(self) -> str:
        """Which anomaly this cycle is."""
        form = _FORMS.get(max(self.kinds), "")
        rw = [kind == RW for kind in self.kinds]
        if sum(rw) == 0:
            return ("G1c" if WR in self.kinds else "G0") + form
        if sum(rw) == 1:
            return f"G-single{form}"
        adjacent = any(one and other for one, other in zip(rw, [*rw[1:], rw[0]], strict=True))
        return ("G2-item" if adjacent else "G-nonadjacent") + form


@dataclass(frozen=True, slots=True)
class Shape:
    """A little automaton that reads the kinds of edges along a way.

    ``moves`` tells for each state, 0 first, by which kinds of edges a way may go on and in which state it then is. A way is
    complete in one of the states ``ends``.
    """

    moves: tuple[dict[int, int], ...]
    ends: frozenset[int]

    def behind_process(self) -> Shape:
        """The same behind an edge of process order, and with more of them wherever there may be ww edges."""
        moves: list[dict[int, int]] = [{PROCESS: 1}]
        for of_state in self.moves:
            later = {kind: state + 1 for kind, state in of_state.items()}
            moves.append({**later, PROCESS: later[WW]})
        return Shape(tuple(moves), frozenset(state + 1 for state in self.ends))


def _shape(*moves: dict[int, int], ends: Iterable[int]) -> Shape:
    return Shape(moves, frozenset(ends))


def _seen(state: int) -> dict[int, int]:
    """Any edge by which one transaction sees another leads to the state."""
    return {WW: state, WR: state}


# A cycle, turned so that it begins with an edge that gives it its name.
_TURNED: Final = {
    "G0": _shape({WW: 1}, {WW: 1}, ends=[1]),
    "G1c": _shape({WR: 1}, _seen(1), ends=[1]),
    "G-single": _shape({RW: 1}, _seen(1), ends=[1]),
    "G-nonadjacent": _shape({RW: 1}, _seen(2), {**_seen(2), RW: 3}, _seen(4), {**_seen(4), RW: 3}, ends=[4]),
    "G2-item": _shape({RW: 1}, {RW: 2}, {**_seen(2), RW: 2}, ends=[2]),
}
# What leads from the end of one edge of process or real-time order to its beginning.
_BETWEEN: Final = {
    "G0": _shape({WW: 0}, ends=[0]),
    "G1c": _shape({WW: 0, WR: 1}, _seen(1), ends=[1]),
    "G-single": _shape({**_seen(0), RW: 1}, _seen(1), ends=[1]),
    "G-nonadjacent": _shape(
        {**_seen(0), RW: 1}, _seen(2), {**_seen(2), RW: 3}, _seen(4), {**_seen(4), RW: 3}, ends=[3, 4]
    ),
    "G2-item": _shape({**_seen(0), RW: 1}, {**_seen(0), RW: 2}, {**_seen(2), RW: 2}, ends=[2]),
}


@dataclass(frozen=True, slots=True)
class Ground:
    """The graph that a level keeps free of cycles: edges of these kinds, and of real time.

    ``split``: two rw edges in a row are no way (snapshot isolation).
    """

    kinds: tuple[int, ...]
    split: bool = False
    in_real_time: bool = False

    @property
    def shape(self) -> Shape:
        """Any cycle in it, turned so that it ends with the edge of real time; without one, not with an rw edge if it is split."""
        if not self.split:
            return _shape(dict.fromkeys(self.kinds, 0), ends=[0])
        others = {kind: 0 for kind in self.kinds if kind != RW}
        return _shape({**others, RW: 1}, others, ends=[0, 1] if self.in_real_time else [0])


_DEPENDENCIES = (WW, WR, RW)
GROUNDS: Final = {
    Level.READ_UNCOMMITTED: Ground((WW,)),
    Level.READ_COMMITTED: Ground((WW, WR)),
    Level.SNAPSHOT_ISOLATION: Ground(_DEPENDENCIES, split=True),
    Level.STRONG_SESSION_SNAPSHOT_ISOLATION: Ground((*_DEPENDENCIES, PROCESS), split=True),
    Level.STRONG_SNAPSHOT_ISOLATION: Ground(_DEPENDENCIES, split=True, in_real_time=True),
    Level.SERIALIZABLE: Ground(_DEPENDENCIES),
    Level.STRONG_SESSION_SERIALIZABLE: Ground((*_DEPENDENCIES, PROCESS)),
    Level.STRICT_SERIALIZABLE: Ground(_DEPENDENCIES, in_real_time=True),
}

_PROCESS_SHAPES = {name: shape.behind_process() for name, shape in _BETWEEN.items()}
_SNAPSHOTS, _SERIAL = Level.SNAPSHOT_ISOLATION, Level.SERIALIZABLE
_SESSIONS = (Level.STRONG_SESSION_SNAPSHOT_ISOLATION,) * 4 + (Level.STRONG_SESSION_SERIALIZABLE,)
_STRONG = (Level.STRONG_SNAPSHOT_ISOLATION,) * 4 + (Level.STRICT_SERIALIZABLE,)

SEARCHES: Final = tuple(
    (name, level, shapes[name])
    for shapes, levels in (
        (_TURNED, (Level.READ_UNCOMMITTED, Level.READ_COMMITTED, _SNAPSHOTS, _SNAPSHOTS, _SERIAL)),
        (_PROCESS_SHAPES, _SESSIONS),
        (_BETWEEN, _STRONG),
    )
    for name, level in zip(CYCLES, levels, strict=True)
)
"""Each anomaly that is a cycle: its name without form, the level in whose ground it is, and its shape; the plain forms first."""
