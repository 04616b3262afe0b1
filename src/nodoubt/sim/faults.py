"""What strikes the world at a moment, and its healing. Packets are the network's business, callers that of the workload."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from nodoubt.sim.plan import STROKES
from nodoubt.sim.server import Disk, Server

if TYPE_CHECKING:
    from nodoubt.sim.run import Simulation


#: The messages of the protocol that faults aim at.
AIMS = (
    *("Enlisted", "CommitRequested", "Prepare", "Prepared", "Decide", "DecisionDurable", "CommitBranch"),
    *("BranchCommitted", "BranchCommitted", "Forget", "RollbackBranch"),
)


class Faults:
    """Strokes of one history."""

    def __init__(self, world: Simulation) -> None:
        self._world = world
        self._random = world.plan.stream("strokes")
        self._healed = False
        #: The process whose message brought the stroke about, if one did.
        self._aimed_at = ""
        #: gid -> what an operator did, by node.
        self.by_hand: dict[tuple[str, str], bool] = {}

    def begin(self) -> None:
        """Schedule every stroke."""
        plan = self._world.plan
        for kind in STROKES:
            random = plan.stream(kind) if kind in plan.rates else None
            if random is not None:
                for _ in range(int(plan.rates[kind])):
                    self._aim(kind, random)

    def _aim(self, kind: str, random: Random) -> None:
        """Some strike at any time, some right after a message of the protocol: most of the time nothing goes on."""
        plan = self._world.plan
        if random.random() < 0.4:
            self._world.schedule.at(random.random() * plan.horizon_s, self._strike, kind)
            return
        delay_s = random.choice((0.0, 1.0, 3.0)) * random.random() * plan.latency_s

        def strike(process: str) -> None:
            self._world.schedule.after(delay_s, self._strike, kind, process)

        aim = (random.choice(AIMS), int(random.expovariate(0.4)) + 1)
        self._world.watcher.aimed.setdefault(aim, []).append(strike)

    def _strike(self, kind: str, process: str = "") -> None:
        self._aimed_at = process
        if not self._healed and _STRIKE[kind](self):
            self._world.observer.hit("fault", kind)

    def heal(self) -> None:
        """The last fault is over: everything runs and is reached."""
        self._healed = True
        world = self._world
        world.observer.say("world", "heals")
        world.network.heal()
        for disk in self._disks():
            disk.slowness, disk.full, disk.fails = 1.0, False, False
        world.machine.dies_in = None
        for server in world.servers:
            server.resume()
            server.start()
        for name, process in list(world.processes.items()):
            if process.loop.dead:
                world.boot(name)
            else:
                process.loop.resume()

    # Kinds

    def _some_process(self) -> str | None:
        running = [name for name, process in self._world.processes.items() if process.loop.is_running()]
        if self._aimed_at in running:
            return self._aimed_at
        return self._random.choice(running) if running else None

    def _some_server(self) -> Server | None:
        return self._random.choice(self._world.servers) if self._world.servers else None

    def _disks(self) -> list[Disk]:
        shared = [self._world.machine.disk] if self._world.files else []
        return [server.disk for server in self._world.servers] + shared

    def _some_disk(self) -> Disk:
        return self._random.choice(self._disks())

    def _long_s(self) -> float:
        return float(10 ** self._random.uniform(-1, 2.5))

    def _kill(self, *, with_machine: bool) -> bool:
        name, world = self._some_process(), self._world
        if name is None:
            return False
        if world.files and self._random.random() < 0.5:
            # In the middle of what somebody does to the disk.
            world.machine.dies_in = self._random.randint(1, 12)
            world.machine.kill = lambda loop: self._kill_now(loop.name, with_machine=with_machine)
        else:
            self._kill_now(name, with_machine=with_machine)
        return True

    def _kill_now(self, name: str, *, with_machine: bool) -> None:
        world = self._world
        # Where a node is a file, all processes are on its machine.
        names = list(world.processes) if with_machine and world.files else [name]
        for victim in names:
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

    def _pause(self) -> bool:
        name = self._some_process()
        if name is None:
            return False
        process, seconds = self._world.processes[name], self._long_s()
        self._world.observer.say(name, f"is stopped for {seconds:.1f} s")
        process.loop.pause()
        self._world.schedule.after(seconds, process.loop.resume)
        return True

    def _kill_server(self) -> bool:
        server = self._some_server()
        if server is not None:
            server.crash()
        return server is not None

    def _pause_server(self) -> bool:
        server, seconds = self._some_server(), self._long_s()
        if server is None:
            return False
        self._world.observer.say(server.name, f"is stopped for {seconds:.1f} s")
        server.pause()
        self._world.schedule.after(seconds, server.resume)
        return True

    def _partition(self) -> bool:
        world = self._world
        name = self._some_process() or self._random.choice(list(world.processes))
        server, seconds = self._some_server(), self._long_s()
        if server is None:
            return False
        world.observer.say(name, f"does not reach {server.name} for {seconds:.1f} s")
        world.network.cut(name, server, world.schedule.now + seconds)
        return True

    def _slow_disk(self) -> bool:
        disk, slowness = self._some_disk(), float(10 ** self._random.uniform(1, 4))
        self._world.observer.say("world", f"one disk is {slowness:.0f} times slower")
        disk.slowness = slowness
        self._world.schedule.after(self._long_s(), setattr, disk, "slowness", 1.0)
        return True

    def _full_disk(self) -> bool:
        disk = self._some_disk()
        self._world.observer.say("world", "one disk is full")
        disk.full = True
        self._world.schedule.after(self._long_s(), setattr, disk, "full", False)
        return True

    def _failing_disk(self) -> bool:
        self._world.observer.say("world", "one disk will fail its next forced write")
        self._some_disk().fails = True
        return True

    def _jump(self) -> bool:
        world = self._world
        seconds = self._random.choice((-1, 1)) * self._long_s() * 20
        server = self._some_server()
        if server is None or self._random.random() < 0.5:
            name = self._random.choice(list(world.processes))
            world.clock(name).ahead_s += seconds
        else:
            name = server.name
            server.clock_ahead_s += seconds
        world.observer.say(name, f"has its clock jump by {seconds:.1f} s")
        return True

    def _operator(self) -> bool:
        world = self._world
        found = [
            (server, name) for server in world.servers for name in server.store.prepared if name not in world.strangers
        ]
        if not found:
            # Come back while there is something to be done.
            if world.schedule.now < world.plan.horizon_s:
                world.schedule.after(0.01 + world.plan.horizon_s / 50, self._strike, "operator finishes a branch")
            return False
        server, name = self._random.choice(found)
        commit = self._random.random() < 0.5
        done = server.finish_by_hand(name, commit=commit)
        world.observer.say("operator", f"{'commits' if commit else 'rolls back'} {name} on {server.name}: {done}")
        if done:
            self.by_hand[gid_of(name), server.name] = commit
        return done


def gid_of(name: str) -> str:
    """The gid in a prepared branch's name, as either kind of server spells it."""
    return name.strip("'").split(".")[2].partition("'")[0]


_STRIKE: dict[str, Callable[[Faults], bool]] = {
    "process killed": lambda faults: faults._kill(with_machine=False),
    "machine lost power": lambda faults: faults._kill(with_machine=True),
    "process paused": Faults._pause,
    "server killed": Faults._kill_server,
    "server paused": Faults._pause_server,
    "partition": Faults._partition,
    "slow disk": Faults._slow_disk,
    "full disk": Faults._full_disk,
    "forced write fails": Faults._failing_disk,
    "clock jumps": Faults._jump,
    "operator finishes a branch": Faults._operator,
}
