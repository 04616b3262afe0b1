"""How processes die: by a kill or with their machine, at a moment or in the middle of a call of the disk."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from nodoubt.sim.loop import ProcessLoop
from nodoubt.sim.machine import FORCE, UNSEEN_COMMIT, UNSEEN_WORK

if TYPE_CHECKING:
    from nodoubt.sim.run import Simulation

#: How often who dies where a node is a file leaves a branch there that others wait for.
AWAITED = 0.5


class Deaths:
    """Those of one history. Who died is started again within 10 s."""

    def __init__(self, world: Simulation, random: Random) -> None:
        self._world = world
        self._random = random
        #: The last fault is over.
        self.over = False

    def strike(self, name: str, *, with_machine: bool) -> None:
        """Kill a process, or, where a node is a file, whoever is next in the middle of what he does to the disk."""
        world = self._world
        # Where a node is a file, all processes are on its machine, and die together by power, or by whoever can kill them all.
        everybody = bool(world.files) and with_machine
        if world.files and not with_machine and self._random.random() < AWAITED:
            world.crowd(self._random.choice(world.files).name)
            self._await_doubt(haunted=False)
        elif world.files and self._random.random() < (0.7 if with_machine else 0.5):
            machine = world.machine
            machine.dies_at = self._random.choice(("", UNSEEN_COMMIT, *[FORCE if with_machine else UNSEEN_COMMIT] * 3))
            machine.dies_in = self._random.randint(1, 2 if machine.dies_at else 12)
            everybody = everybody or (machine.dies_at == UNSEEN_COMMIT and self._random.random() < 0.7)
            machine.kill = lambda loop: self._kill(loop.name, with_machine=with_machine, everybody=everybody)
        else:
            self._kill(name, with_machine=with_machine, everybody=everybody)

    def fail_together(self, process: str, gid: str, at_once: bool) -> None:
        """Power goes soon after a forced write failed: who believes the next one loses by it."""
        if not self.over and not self._world.machine.disk.fails and self._random.random() < 0.5:
            self._world.observer.hit("fault", "machine lost power")
            self._kill(process, with_machine=True, everybody=True)

    def haunt(self) -> bool:
        """Let somebody die with a commit that nobody sees, and all once a branch that was prepared beside it is decided.

        The next one to open the file may find that commit, and has the branch to do again.
        """
        machine = self._world.machine
        machine.dies_at, machine.dies_in, machine.kill = UNSEEN_WORK, 1, self._leave_unseen
        self._world.crowd(self._random.choice(self._world.files).name)
        return True

    def _leave_unseen(self, loop: ProcessLoop) -> None:
        self._kill(loop.name, with_machine=False, everybody=False)
        self._await_doubt(haunted=True)

    def _await_doubt(self, *, haunted: bool) -> None:
        """Let whoever commits next what is prepared in a file die just then; with all others, beside an unseen commit."""
        self._world.watcher.aim("CommitBranch", partial(self._die_in_doubt, haunted))

    def _die_in_doubt(self, haunted: bool, process: str, gid: str, at_once: bool) -> None:
        files = [file for file in self._world.files if file.ghost is not None or not haunted]
        if self.over or not files:
            return
        if any(gid in name for file in files for name in file.in_doubt()):
            self._kill(process, with_machine=False, everybody=haunted)
        else:
            self._await_doubt(haunted=haunted)

    def _kill(self, name: str, *, with_machine: bool, everybody: bool) -> None:
        world = self._world
        for victim in list(world.processes) if everybody else [name]:
            if not world.processes[victim].loop.dead:
                world.crash_points(victim)
                world.observer.say(victim, "loses power" if with_machine else "is killed")
                world.processes[victim].kill(with_machine=with_machine)
                world.schedule.after(self._random.random() * 10, self._reboot, victim)
        if with_machine and world.files:
            world.machine.lose_power()
            for database in world.files:
                database.lose_power()

    def _reboot(self, name: str) -> None:
        if self._world.processes[name].loop.dead:
            self._world.boot(name)
