"""One history: a workload under faults, healing, settling, final reads, and the judge."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

from nodoubt.engine.config import Config
from nodoubt.engine.engine import Settings
from nodoubt.errors import NodoubtError
from nodoubt.nodes import sqlite_tables
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.protocol.ids import BranchId, new_gid
from nodoubt.sim import judge
from nodoubt.sim.faults import Faults
from nodoubt.sim.locks import Txn
from nodoubt.sim.loop import ProcessLoop, Schedule
from nodoubt.sim.machine import Machine
from nodoubt.sim.mariadb import MariaDBServer
from nodoubt.sim.network import Network
from nodoubt.sim.observer import Observer
from nodoubt.sim.plan import FAR, STRANGERS, Plan
from nodoubt.sim.postgresql import PostgreSQLServer
from nodoubt.sim.process import Clock, Process
from nodoubt.sim.seam import swapped
from nodoubt.sim.server import EPOCH_S, Server
from nodoubt.sim.sqlite_file import SQLiteDatabase
from nodoubt.sim.store import Prepared, Record, Tables
from nodoubt.sim.watch import PURGES, SETTLES, Watcher, openings_counted, verdicts_counted
from nodoubt.sim.workload import ACCOUNTS, BALANCE, LISTS, Attempt, Chronicle, Client

DOMAIN = "sim"
SERVERS: dict[str, type[Server]] = {"postgresql": PostgreSQLServer, "mariadb": MariaDBServer}
#: Everything must be settled this long after the last fault, in virtual seconds: the longest session limit, and some rounds.
SETTLED_S_MAX = 600.0
#: How often it is looked whether everything is settled.
LOOK_S = 1.0
#: From farther away nobody gets a session within the time that connecting may take.
FAR_S_MAX = 0.25
#: How often a MariaDB node has a binary log.
LOGS = 0.3
#: How often a new process settles again, which takes longer to simulate than one that runs.
NEW_PROCESS = 0.2
#: How many transactions a guest makes.
GUEST_TRANSACTIONS = 2
#: A history takes some thousand steps; one that takes so many will never end.
STEPS_MAX = 500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What became of one seed."""

    plan: Plan
    violations: tuple[str, ...]
    hits: Counter[tuple[str, str]]
    #: Empty unless it was traced.
    lines: tuple[str, ...]
    #: Virtual seconds.
    seconds: float
    attempts: int
    committed: int

    @property
    def hash(self) -> str:
        """The same seed has the same hash on every machine."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()


def run(plan: Plan, *, traced: bool = False) -> History:
    """Run the history of a plan."""
    world = Simulation(plan, traced=traced)
    logger = logging.getLogger("nodoubt")
    # A thousand warnings a second, each of them meant.
    with (
        swapped(logger, "disabled", True),
        swapped(sqlite_tables, "changed_tables", lambda changeset: {}),
        verdicts_counted(world.observer),
        openings_counted(world.observer, world.is_up),
    ):
        try:
            world.play()
            return world.history()
        finally:
            world.bury()


class Simulation:
    """The world of one history."""

    def __init__(self, plan: Plan, *, traced: bool) -> None:
        self.plan = plan
        self.schedule = Schedule()
        self.observer = Observer(lambda: self.schedule.now, traced=traced)
        self.network = Network(
            self.schedule,
            self.observer,
            plan.stream("latencies"),
            plan.stream("packets"),
            plan.rates,
            plan.latency_s,
            {FAR: min(plan.latency_s * plan.farness, FAR_S_MAX)},
        )
        self.random = plan.stream("world")
        #: Of all processes, where a node is a file; else each has its own and this one is idle.
        self.machine = Machine(self.schedule, self.observer, plan.stream("machine"))
        self.databases = {name: self._database(name, kind) for name, kind in plan.nodes.items()}
        for database in self.databases.values():
            database.completing = self._completing
        self.servers = [database for database in self.databases.values() if isinstance(database, Server)]
        #: Prepared branches that must stay as they are.
        self.strangers: set[str] = set()
        if STRANGERS in plan.rates:
            self._plant_strangers()
        self.chronicle = Chronicle()
        self.watcher = Watcher(self.schedule, self.observer)
        self.watcher.decided = self._decided
        self.processes: dict[str, Process] = {}
        self._guests = 0
        #: (gid, node) that settling reported as finished by somebody else.
        self.reported: set[tuple[str, str]] = set()
        self._loops: list[ProcessLoop] = []
        self._clocks = {f"p{number}": Clock() for number in range(plan.processes)}
        self._clients = self._make_clients()
        self.config = self._configure()
        self.faults = Faults(self)

    def _database(self, name: str, kind: str) -> Server | SQLiteDatabase:
        if kind == "sqlite":
            return SQLiteDatabase(name, self.machine, self.observer, _tables(name))
        server = SERVERS[kind](name, self.schedule, self.observer, Random(self.random.random()), _tables(name))
        if isinstance(server, MariaDBServer):
            server.logs = self.random.random() < LOGS
        return server

    @property
    def attempts(self) -> list[Attempt]:
        """All attempts of all clients."""
        return self.chronicle.attempts

    @property
    def files(self) -> list[SQLiteDatabase]:
        """The databases that are files."""
        return [database for database in self.databases.values() if isinstance(database, SQLiteDatabase)]

    def _plant_strangers(self) -> None:
        self.observer.hit("fault", STRANGERS)
        for server in self.servers:
            gid = new_gid(int(EPOCH_S - 3600) * 1000, self.random.randbytes(10))
            names = [
                server.spell(BranchId(domain="others", gid=gid, branch=1, home="p0")),
                server.spell(BranchId(domain=DOMAIN, gid=gid, branch=1, home="elsewhere")),
            ]
            for name in names:
                record = Record("prepare", name, at_s=EPOCH_S - 3600)
                server.store.prepared[name] = Prepared(Txn(), record.at_s)
                server.store.append(record)
            self.strangers.update(names)
            row = ("rubbish", "[]", False, EPOCH_S - 3600, "", 0)[: server.decision_columns]
            writes = {("decision", new_gid(int(EPOCH_S - 1800) * 1000, self.random.randbytes(10))): row}
            server.store.force(server.store.append(Record("commit", writes=writes)))
            server.store.tables["decision"].update({gid: row for (_, gid), row in writes.items()})

    def _make_clients(self) -> dict[str, list[Client]]:
        plan = self.plan
        names = [f"p{number}c{client}" for number in range(plan.processes) for client in range(plan.clients)]
        share, more = divmod(plan.transactions, len(names))
        clients: dict[str, list[Client]] = {}
        for index, name in enumerate(names):
            random = plan.stream(name)
            client = Client(name, plan, self.observer, self.chronicle, random, share + (index < more))
            clients.setdefault(name.partition("c")[0], []).append(client)
        return clients

    def _configure(self) -> Config:
        random = self.plan.stream("settings")
        session_limit_s = random.choice((10.0, 30.0, 60.0)) if not self.plan.sleepy else 10.0
        node = NodeSettings(
            url="simulated:",
            pool_size=random.choice((1, 2, 5)),
            acquire_timeout_s=random.choice((1.0, 5.0)),
            connect_timeout_s=2.0,
            settle_connections=random.choice((1, 1, 4)),
            lock_timeout_s=random.choice((0.2, 1.0)),
            session_limit_s=session_limit_s,
        )
        settings = Settings(
            timeout_s=10.0,
            lock_wait_s=random.choice((0.3, 1.0, 3.0)),
            settle_every_s=max(10.0, self.plan.horizon_s / random.choice((1, 2))),
            grace_s=random.choice((0.0, 0.0, 1.0, 10.0)),
            forget_every_s=random.choice((2.0, 8.0)),
            retention_s=10 * session_limit_s,
            purge_every_s=random.choice((6.0, 20.0, 60.0)) if self.plan.is_slow else 60.0,
            watch=self.watcher,
        )
        return Config(domain=DOMAIN, nodes=dict.fromkeys(self.plan.nodes, node), settings=settings)

    # Processes

    def boot(self, name: str) -> None:
        """Start a process; its clients go on with what is left."""
        before = self.processes.get(name)
        number = before.number + 1 if before is not None else 0
        random = self.plan.stream(f"{name}/{number}")
        databases = list(self.databases.values())
        process = Process(name, number, self.config, self.network, databases, self._clocks[name], random, self.machine)
        self.processes[name] = process
        self._loops.append(process.loop)
        self.observer.say(name, f"starts, number {number}")
        process.loop.create_task(self._live(process))

    async def _live(self, process: Process) -> None:
        await opened(process)
        manager = process.manager
        await asyncio.gather(*[client.work(manager) for client in self._clients.get(process.name, ())])
        process.idle = True

    def crowd(self, node: str) -> None:
        """One more client for every process that runs, at once and for a while, to write to a node."""
        for process in self.processes.values():
            if process.is_open and not process.loop.dead:
                self._guests += 1
                name = f"{process.name}g{self._guests}"
                random = self.plan.stream(name)
                guest = Client(name, self.plan, self.observer, self.chronicle, random, GUEST_TRANSACTIONS, node)
                process.loop.create_task(self._entertain(process, guest))

    async def _entertain(self, process: Process, guest: Client) -> None:
        process.guests += 1
        await guest.work_at_once(process.manager)
        process.guests -= 1

    def clock(self, name: str) -> Clock:
        """The wall clock of a process's machine."""
        return self._clocks[name]

    def is_up(self, name: str) -> bool:
        """Whether a database could answer; a file always can."""
        database = self.databases[name]
        return not isinstance(database, Server) or (database.up and not database.paused)

    def decisions(self, gid: str) -> list[Any]:
        """The rows that decide a transaction, on whatever node."""
        rows = [database.store.tables["decision"].get(gid) for database in self.databases.values()]
        return [row for row in rows if row is not None]

    def crash_points(self, name: str) -> None:
        """Note what a process leaves that dies now."""
        process = self.processes[name]
        if not process.is_open:
            return
        engine = process.manager.engine
        points = [self._point(gid, len(work.machine.participants)) for gid, work in engine.live.items()]
        points += ["C11" for unmarked in engine._finished.values() if unmarked]
        for text in process.asking():
            if text.startswith(PURGES):
                points.append("C12")
            elif any(mark in text for mark in SETTLES) and not any(gid in text for gid in engine.live):
                points.append("C13")
        for point in points:
            self.observer.hit("crash point", point)

    def _point(self, gid: str, participants: int) -> str:
        """Where a transaction is, by its last message and by how many nodes hold its prepared branch."""
        point = self.watcher.points.get(gid, "C1")
        databases = self.databases.values()
        prepared = sum(any(f".{gid}" in name for name in database.in_doubt()) for database in databases)
        if point in ("C4", "C5") and prepared:
            return "C5" if prepared < participants else "C6"
        return "C10" if point == "C9" and 0 < prepared < participants else point

    def _completing(self, gid: str) -> None:
        for name, database in self.databases.items():
            if any(f".{gid}" in branch for branch in database.in_doubt()):
                self.observer.violation(f"{gid} is marked complete while its branch on {name} is prepared")

    def _decided(self, home: str, gid: str) -> None:
        database = self.databases[home]
        if isinstance(database, Server) and not database.store.is_durable(("decision", gid)):
            self.observer.violation(f"{gid} was told to be decided, and that is not on the disk of {home}")

    # Phases

    def play(self) -> None:
        """From the first transaction to the verdict."""
        plan, schedule = self.plan, self.schedule
        for name in self._clocks:
            self.boot(name)
        self.faults.begin()
        schedule.run(plan.horizon_s, STEPS_MAX)
        if plan.heals:
            self.faults.heal()
            settled = self._wait_until_settled()
            self._judge_end(settled)
        judge.safety(self)
        for bug in schedule.bugs:
            self.observer.violation(f"a callback raised {bug!r}")

    def _wait_until_settled(self) -> bool:
        end = self.schedule.now + SETTLED_S_MAX
        while self.schedule.now < end:
            self.schedule.run(self.schedule.now + LOOK_S, STEPS_MAX)
            if self.is_quiet():
                return True
        return False

    def is_quiet(self) -> bool:
        """Whether nobody works or settles, nothing is in doubt, and nobody is going to ask again."""
        for process in self.processes.values():
            if not process.idle or process.guests or process.goes_on:
                return False
        # A server goes on with what the dead asked of it, and what they sent may come late.
        for server in self.servers:
            for backend in server.backends.values():
                if backend.running is not None or (backend.line is not None and backend.line.brings_something):
                    return False
        return not judge.open_ends(self)

    def _judge_end(self, settled: bool) -> None:
        if not settled:
            for left in judge.open_ends(self) or ["a client is still at work"]:
                self.observer.violation(f"not settled {SETTLED_S_MAX:.0f} s after the last fault: {left}")
            return
        before = judge.durable(self)
        self._settle_again()
        # A PREPARE that was on its way to a disk when all was quiet may end only now.
        if not self.is_quiet() and not self._wait_until_settled():
            self.observer.violation(f"not settled again: {judge.open_ends(self)}")
        for change in judge.changed(before, judge.durable(self)):
            self.observer.violation(f"settling again changed something: {change}")
        judge.liveness(self)

    def _settle_again(self) -> None:
        """Some process, or a new one, settles once more, and asks for what its caller could not be told."""
        asked = self.processes["p0"]
        if self.random.random() < NEW_PROCESS:
            self._clocks["visitor"] = Clock()
            self.boot("visitor")
            asked = self.processes["visitor"]
        task = asked.loop.create_task(judge.ask(asked, self))
        end = self.schedule.now + SETTLED_S_MAX
        while not task.done() and self.schedule.now < end:
            self.schedule.run(self.schedule.now + LOOK_S, STEPS_MAX)
        if not task.done() or task.exception() is not None:
            why = task.exception() if task.done() else "it hangs"
            self.observer.violation(f"settling again failed: {why}")

    def history(self) -> History:
        """What became of it."""
        return History(
            plan=self.plan,
            violations=tuple(self.observer.violations),
            hits=self.observer.hits,
            lines=tuple(self.observer.lines or ()),
            seconds=self.schedule.now,
            attempts=len(self.attempts),
            committed=sum(attempt.told == "committed" for attempt in self.attempts),
        )

    def bury(self) -> None:
        """Nothing of this world may run afterwards."""
        for loop in self._loops:
            loop.bury()


async def opened(process: Process) -> None:
    """Open the manager, as often as it takes."""
    while True:
        try:
            await process.manager.__aenter__()
        except NodoubtError:
            await asyncio.sleep(1.0)
        else:
            process.is_open = True
            return


def _tables(name: str) -> Tables:
    return {
        "node": {1: (name, DOMAIN, "1234567890", 1)},
        "decision": {},
        "branch": {},
        "list": dict.fromkeys(LISTS, ()),
        "account": dict.fromkeys(ACCOUNTS, BALANCE),
    }
