"""What strikes the world at a moment, and its healing. Packets are the network's business, callers that of the workload."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from nodoubt.nodes.contract import Isolation
from nodoubt.sim.deaths import Deaths
from nodoubt.sim.mariadb import MariaDBServer
from nodoubt.sim.plan import OVERTAKEN, SETTLER_OVERTAKEN, STROKES, UNSEEN
from nodoubt.sim.server import FORCE_S, Disk, Server
from nodoubt.sim.sleepers import Sleepers
from nodoubt.sim.watch import STEPS

if TYPE_CHECKING:
    from nodoubt.sim.process import Process
    from nodoubt.sim.run import Simulation


#: The messages of the protocol, and the steps of settling, that faults aim at.
AIMS = (
    *("Enlisted", "CommitRequested", "Prepare", "Prepared", "Decide", "DecisionDurable", "CommitBranch"),
    *("CommitBranch", "BranchCommitted", "Forget", "RollbackBranch", "unfinished", "list", "probe", "finish", "purge"),
)
#: Those at which a branch is prepared.
PREPARED_AIMS = (
    *("Prepared", "Decide", "DecisionDurable", "DecisionLost", "Probe"),
    *("RollbackBranch", "RollbackBranch", "list"),
)
#: Kinds that aim at some of them alone, or more often.
AIMS_OF = {
    "operator finishes a branch": PREPARED_AIMS,
    "seen decision lost": ("Decide",),
    "machine lost power": (*AIMS, *["CommitRequested", "Prepare"] * 4),
    OVERTAKEN: ("Prepare",),
    SETTLER_OVERTAKEN: ("Prepared", "Decide", "DecisionDurable", "CommitBranch"),
    "process killed": (*AIMS, "probe", "finish", "purge", *["Decide", "DecisionDurable", "CommitBranch"] * 3),
}
#: The steps of opening snapshots, where there are any.
OPENING_AIMS = ("gate", "open") * 3
#: Kinds that cannot strike at any other time.
NEED_A_GID = (OVERTAKEN, SETTLER_OVERTAKEN, "seen decision lost")
#: Kinds that may strike before anything else happens, as a process that stops between two of its own steps.
AT_ONCE = ("process killed", "machine lost power", "seen decision lost")
#: The disk of a home whose decisions are to be seen before they are forced is so much slower.
UNFORCED_SLOWNESS = (1e3, 1e4)
#: That of a server that is to lose what readers have seen, who must come to their end meanwhile.
SEEN_SLOWNESS = (50.0, 400.0)


class Faults:
    """Strokes of one history."""

    def __init__(self, world: Simulation) -> None:
        self._world = world
        self._random = world.plan.stream("strokes")
        self._deaths: Deaths = Deaths(world, self._random)
        #: The process whose message brought the stroke about, and its gid, if one did.
        self._aimed_at = self._aimed_gid = ""
        self._sleepers = Sleepers(world)
        #: gid -> what an operator did, by node.
        self.by_hand: dict[tuple[str, str], bool] = {}

    def begin(self) -> None:
        """Schedule every stroke."""
        plan = self._world.plan
        for server in self._world.servers if plan.forgetful else ():
            if isinstance(server, MariaDBServer):
                server.disk.slowness = self._random.uniform(*SEEN_SLOWNESS)
                server.shows_unforced = partial(self._row_was_seen, server)
        for kind in STROKES:
            random = plan.stream(kind) if kind in plan.rates else None
            if random is not None:
                for _ in range(int(plan.rates[kind])):
                    self._aim(kind, random)

    def _aim(self, kind: str, random: Random) -> None:
        """Some strike at any time, some right after a message of the protocol: most of the time nothing goes on."""
        world, plan = self._world, self._world.plan
        if random.random() < 0.3 and kind not in NEED_A_GID:
            world.schedule.after(random.random() * plan.horizon_s, self._strike, kind)
            return
        delay_s = random.choice((0.0, 0.0, 1.0, 3.0)) * random.random() * plan.latency_s
        sleeps = kind == OVERTAKEN and plan.sleepy

        def strike(process: str, about: str, at_once: bool) -> None:
            if at_once and (sleeps or (not delay_s and kind in AT_ONCE)):
                self._strike(kind, process, about)
            else:
                world.schedule.after(delay_s, self._strike, kind, process, about)

        # Who decides when he wakes must have been stopped just before he sent the decision.
        aims = ("Decide",) if sleeps else AIMS_OF.get(kind, AIMS)
        if kind not in NEED_A_GID and (plan.views or plan.isolation is Isolation.SNAPSHOT):
            aims = (*aims, *OPENING_AIMS)
        self._await(random.choice(aims), strike, others_first=int(random.expovariate(0.4)))

    def _strike(self, kind: str, process: str = "", gid: str = "") -> None:
        self._aimed_at, self._aimed_gid = process, gid
        if not self._deaths.over and _STRIKE[kind](self):
            self._world.observer.hit("fault", kind)
            if not self._world.plan.heals:
                # Without healing there is no last fault either.
                self._aim(kind, self._random)

    def heal(self) -> None:
        """The last fault is over: everything runs and is reached."""
        self._deaths.over = True
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
            elif name not in self._sleepers.asleep:
                process.loop.resume()

    # Kinds

    def _some_process(self) -> str | None:
        running = [name for name, process in self._world.processes.items() if process.loop.is_running()]
        if self._aimed_at in running:
            return self._aimed_at
        return self._random.choice(running) if running else None

    def _some_server(self) -> Server | None:
        """One of those at work on the transaction whose message was waited for, if there are any."""
        process = self._world.processes.get(self._aimed_at)
        work = process.manager.engine.live.get(self._aimed_gid) if process is not None else None
        servers = [server for server in self._world.servers if work is not None and server.name in work.machine.nodes]
        servers = servers or self._world.servers
        return self._random.choice(servers) if servers else None

    def _disks(self) -> list[Disk]:
        shared = [self._world.machine.disk] if self._world.files else []
        return [server.disk for server in self._world.servers] + shared

    def _some_disk(self) -> Disk:
        return self._random.choice(self._disks())

    def _long_s(self) -> float:
        return float(10 ** self._random.uniform(-1, 2.5))

    def _kill(self, *, with_machine: bool) -> bool:
        name = self._some_process()
        if name is not None:
            self._deaths.strike(name, with_machine=with_machine)
        return name is not None

    def _pause(self) -> bool:
        name = self._some_process()
        if name is None:
            return False
        process, seconds = self._world.processes[name], self._long_s()
        self._world.observer.say(name, f"is stopped for {seconds:.1f} s")
        process.loop.pause()
        self._world.schedule.after(seconds, process.loop.resume)
        return True

    def _overtake(self) -> bool:
        """Stop a process that prepares, let another one settle what it was at, without any grace, and wake it then."""
        world, owner = self._world, self._world.processes[self._aimed_at]
        others = self._others()
        if not others or owner.loop.dead:
            return False
        world.observer.say(owner.name, "is stopped while it prepares")
        wakes_s = self._random.choice((1.0, 3.0, 15.0))
        self._sleepers.stop(OVERTAKEN, owner, self._aimed_gid, at_least_s=wakes_s)
        world.schedule.after(0.01 + 5 * world.plan.latency_s, self._settle, self._random.choice(others))
        return True

    def _overtake_settler(self) -> bool:
        """Stop a process that has asked for what is in doubt, and wake it when others have finished what it was told of."""
        others = self._others()
        if others:
            settler = self._random.choice(others)
            self._await("list", partial(self._stop_settler, settler, self._aimed_gid))
            self._settle(settler)
        return bool(others)

    def _stop_settler(self, settler: Process, gid: str, reader: str, asked: str, at_once: bool) -> None:
        if self._deaths.over:
            return
        if reader != settler.name:
            self._await("list", partial(self._stop_settler, settler, gid))
            return
        self._world.observer.say(reader, "is stopped while it settles")
        self._sleepers.stop(SETTLER_OVERTAKEN, settler, gid, at_least_s=1.0)

    def _others(self) -> list[Process]:
        """Who else could settle what a process is at."""
        processes = self._world.processes.values()
        return [process for process in processes if process.name != self._aimed_at and process.is_open]

    def _settle(self, settler: Process) -> None:
        if not settler.loop.dead:
            settler.loop.create_task(settler.manager.settle(grace_s=0))

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
        disk = self._some_disk()
        disk.fails = True
        if disk is self._world.machine.disk and "machine lost power" in self._world.plan.rates:
            self._await("Decide", self._deaths.fail_together)
        return True

    def _jump(self) -> bool:
        world = self._world
        # Only where something is in doubt does anybody look at the clock; if it was set back, for long.
        doubtful = [server for server in world.servers if server.up and server.in_doubt()]
        seconds = self._random.choice((-1, -1, -1, 1) if doubtful else (-1, 1)) * self._long_s() * 20
        server = self._random.choice(doubtful) if doubtful else self._some_server()
        if server is None or (not doubtful and self._random.random() < 0.5):
            name = self._random.choice(list(world.processes))
            world.clock(name).ahead_s += seconds
        else:
            name = server.name
            server.clock_ahead_s += seconds
        world.observer.say(name, f"has its clock jump by {seconds:.1f} s")
        return True

    def _operator(self) -> bool:
        world = self._world
        gid = self._aimed_gid
        found = [
            (server, name) for server in world.servers for name in server.store.prepared if name not in world.strangers
        ]
        # Those of the transaction whose message was waited for, if there are any.
        found = [(server, name) for server, name in found if gid and gid_of(name) == gid] or found
        if not found:
            # Come back while there is something to be done.
            if world.schedule.now < world.plan.horizon_s:
                world.schedule.after(0.01 + world.plan.horizon_s / 50, self._strike, "operator finishes a branch")
            return False
        server, name = self._random.choice(found)
        decided = any(row[0] == "committed" for row in world.decisions(gid_of(name)))
        # Whoever guesses right does no harm.
        commit = decided if self._random.random() < 0.2 else not decided
        done = server.finish_by_hand(name, commit=commit)
        world.observer.say("operator", f"{'commits' if commit else 'rolls back'} {name} on {server.name}: {done}")
        if done:
            self.by_hand[gid_of(name), server.name] = commit
        return done

    def _lose_seen(self) -> bool:
        """Let a decision be seen before it is forced, stop whoever settles by it, and let it be lost meanwhile.

        Of the servers here MariaDB alone shows what is not forced.
        """
        world, owner, gid = self._world, self._aimed_at, self._aimed_gid
        work = world.processes[owner].manager.engine.live.get(gid)
        home = world.databases.get(work.home or "") if work is not None and work.machine.participants else None
        others = self._others()
        if not isinstance(home, MariaDBServer) or not others:
            self._await("Decide", self._next_decision)
            return False
        home.disk.slowness = self._random.uniform(*UNFORCED_SLOWNESS)
        world.schedule.after(self._long_s(), setattr, home.disk, "slowness", 1.0)
        self._await("unfinished", partial(self._read_unforced, home, owner, gid))
        # Somebody else settles as soon as there is something to be seen.
        world.schedule.after(0.01 + 5 * world.plan.latency_s, self._settle, self._random.choice(others))
        return True

    def _next_decision(self, process: str, gid: str, at_once: bool) -> None:
        self._strike("seen decision lost", process, gid)

    def _read_unforced(self, home: MariaDBServer, owner: str, gid: str, reader: str, asked: str, at_once: bool) -> None:
        world, store = self._world, home.store
        if self._deaths.over or not store.tables["decision"].get(gid) or not store.is_unforced(("decision", gid)):
            return
        if reader == owner or asked != home.name:
            self._await("unfinished", partial(self._read_unforced, home, owner, gid))
            return
        world.observer.hit("met", "mariadb: seen decision lost")
        world.observer.say(reader, "is stopped while it reads")
        world.processes[reader].loop.pause()
        world.schedule.after(0.1 + world.plan.latency_s * 3, self._lose, home, world.processes[reader], gid)

    def _row_was_seen(self, home: MariaDBServer, key: str) -> None:
        lose = partial(self._world.schedule.after, FORCE_S * home.disk.slowness * self._random.random(), self._lose_row)
        if self._random.random() < 0.5:
            lose(home, key)
        else:
            # Behind a moment in which some reader believes that he is through.
            self._await("Released", partial(lose, home, key), others_first=self._random.randrange(3))

    def _lose_row(self, home: MariaDBServer, key: str, *reader: object) -> None:
        if not self._deaths.over and home.store.is_unforced(("list", key)):
            self._world.observer.hit("met", "mariadb: seen row lost")
            home.forget_unforced()

    def _lose(self, home: MariaDBServer, reader: Process, gid: str) -> None:
        if self._deaths.over:
            return
        home.forget_unforced()
        self._world.schedule.after(0.1, home.start)
        if "operator finishes a branch" in self._world.plan.rates:
            self._await("RollbackBranch", partial(self._meddle, gid))
        self._sleepers.resume_when_settled(reader, gid)

    def _meddle(self, gid: str, process: str, about: str, at_once: bool) -> None:
        if about == gid:
            self._strike("operator finishes a branch", process, gid)
        else:
            self._await("RollbackBranch", partial(self._meddle, gid))

    def _await(self, what: str, strike: Callable[[str, str, bool], object], *, others_first: int = 0) -> None:
        """Strike at the next message or step of that kind, behind so many others."""
        watcher = self._world.watcher
        if what in STEPS:
            self._world.network.overhear = watcher.overhear
        watcher.aim(what, strike, others_first=others_first)


def gid_of(name: str) -> str:
    """The gid in a prepared branch's name, as either kind of server spells it."""
    return name.strip("'").split(".")[2].partition("'")[0]


_STRIKE: dict[str, Callable[[Faults], bool]] = {
    "process killed": lambda faults: faults._kill(with_machine=False),
    "machine lost power": lambda faults: faults._kill(with_machine=True),
    UNSEEN: lambda faults: faults._deaths.haunt(),
    "process paused": Faults._pause,
    "server killed": Faults._kill_server,
    "server paused": Faults._pause_server,
    "partition": Faults._partition,
    "slow disk": Faults._slow_disk,
    "full disk": Faults._full_disk,
    "forced write fails": Faults._failing_disk,
    "clock jumps": Faults._jump,
    "operator finishes a branch": Faults._operator,
    OVERTAKEN: Faults._overtake,
    SETTLER_OVERTAKEN: Faults._overtake_settler,
    "seen decision lost": Faults._lose_seen,
}
