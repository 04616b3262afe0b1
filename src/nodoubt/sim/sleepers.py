"""Who is stopped until others have finished what he was at, or home has forgotten it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodoubt.sim.plan import SLEPT

if TYPE_CHECKING:
    from nodoubt.sim.process import Process
    from nodoubt.sim.run import Simulation

#: How often it is looked whether a sleeper may wake, in virtual seconds.
SETTLED_EVERY_S = 0.2
PURGED_EVERY_S = 5.0


class Sleepers:
    """Those of one history."""

    def __init__(self, world: Simulation) -> None:
        self._world = world
        #: Processes that are not woken by healing.
        self.asleep: set[str] = set()

    def stop(self, kind: str, sleeper: Process, gid: str, *, at_least_s: float) -> None:
        """Stop a process, and wake it when others have settled a transaction or, in a sleepy history, long after that."""
        schedule = self._world.schedule
        sleeper.loop.pause()
        if self._world.plan.sleepy:
            self.asleep.add(sleeper.name)
            schedule.after(at_least_s, self._resume_when_purged, kind, sleeper, gid, schedule.now)
        else:
            schedule.after(at_least_s, self.resume_when_settled, sleeper, gid)

    def resume_when_settled(self, sleeper: Process, gid: str) -> None:
        """Wake a process when no branch of a transaction is prepared any more."""
        if any(f".{gid}" in name for database in self._world.databases.values() for name in database.in_doubt()):
            self._world.schedule.after(SETTLED_EVERY_S, self.resume_when_settled, sleeper, gid)
        else:
            sleeper.loop.resume()

    def _resume_when_purged(self, kind: str, sleeper: Process, gid: str, since_s: float) -> None:
        """No session of an owner may be left that could decide by then."""
        world = self._world
        slept_s, retention_s = world.schedule.now - since_s, world.config.settings.retention_s
        is_left = slept_s < retention_s or bool(world.decisions(gid))
        if is_left and slept_s < 3 * retention_s:
            world.schedule.after(PURGED_EVERY_S, self._resume_when_purged, kind, sleeper, gid, since_s)
            return
        if not is_left:
            world.observer.hit("met", SLEPT[kind])
        self.asleep.discard(sleeper.name)
        sleeper.loop.resume()
