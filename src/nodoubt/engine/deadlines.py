"""The deadlines of all live transactions, under one alarm: nearly every alarm of a transaction's own would be for nothing."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Protocol

from nodoubt.nodes.world import Alarm, World

#: An alarm that rings earlier by this much is on time: clocks of loops are no finer, and sums of times are not exact.
EARLY_S = 0.001


class Bounded(Protocol):
    """A transaction that has a deadline, by the world's clock; infinite where nothing is to happen any more."""

    deadline_s: float

    def expire(self) -> None:
        """The deadline is over; it may be set anew."""


class Deadlines:
    """Calls `expire` of each live transaction whose deadline is over.

    The alarm rings no later than the earliest deadline. It may ring for one that ended long ago: then it is set again.
    Transactions may begin in other threads than the one in which it rings.
    """

    def __init__(self, world: World, live: Mapping[str, Bounded]) -> None:
        self._world = world
        self._live = live
        self._lock = threading.Lock()
        self._alarm: Alarm | None = None
        self._rings_s = math.inf

    def keep(self, deadline_s: float) -> None:
        """See that the alarm rings at a deadline; the transaction must be among the live ones by now."""
        if deadline_s < self._rings_s:
            with self._lock:
                if deadline_s < self._rings_s:
                    self._cancel()
                    self._rings_s = deadline_s
                    self._alarm = self._world.later(max(0.0, deadline_s - self._world.now()), self._ring)

    def close(self) -> None:
        """No alarm rings any more, unless for transactions that are live yet."""
        with self._lock:
            if not self._live:
                self._cancel()

    def _cancel(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

    def _ring(self) -> None:
        with self._lock:
            self._rings_s = math.inf
        now = self._world.now() + EARLY_S
        try:
            for work in list(self._live.values()):
                if work.deadline_s <= now:
                    work.expire()
        finally:
            # Others must not miss theirs for a bug of one.
            self.keep(min((work.deadline_s for work in list(self._live.values())), default=math.inf))
