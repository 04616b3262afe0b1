"""Moments behind which too much time may pass: who slept for hours must not ask as if nothing had happened meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from nodoubt.nodes.world import World


class Moment(NamedTuple):
    """A moment by both clocks of a machine: one may be set back, the other may stand still while the machine sleeps."""

    unix_ms: int
    now_s: float

    @classmethod
    def of(cls, world: World) -> Moment:
        """Now."""
        return cls(world.unix_ms(), world.now())

    def is_late(self, world: World, retention_s: float) -> bool:
        """Whether what was so then may have been decided, carried out and purged since. Half of the retention is for packets."""
        passed_s = max((world.unix_ms() - self.unix_ms) / 1000, world.now() - self.now_s)
        return passed_s > retention_s / 2


def in_time(moments: Collection[Moment], world: World, retention_s: float) -> Callable[[], bool]:
    """What a probe asks: whether nobody has slept since one of these moments."""
    return lambda: not any(moment.is_late(world, retention_s) for moment in moments)
