"""A simulated process: the real manager in a loop of its own, with nodes over simulated servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar

from nodoubt.engine.asynchronous import AsyncTransactionManager
from nodoubt.engine.config import Config
from nodoubt.engine.engine import Engine
from nodoubt.engine.worlds import AsyncWorld, ThreadWorld
from nodoubt.nodes.contract import Node
from nodoubt.nodes.dialect import Dialect, NodeSettings
from nodoubt.nodes.mariadb import MariaDB
from nodoubt.nodes.postgresql import PostgreSQL
from nodoubt.nodes.sql import SqlNode
from nodoubt.sim.driver import SimulatedDriver
from nodoubt.sim.loop import ProcessLoop, Schedule
from nodoubt.sim.machine import Machine
from nodoubt.sim.network import Network
from nodoubt.sim.server import EPOCH_S, Disk, Server
from nodoubt.sim.sqlite import WouldWait
from nodoubt.sim.sqlite_file import SQLiteDatabase
from nodoubt.sim.sqlite_node import SimulatedSQLiteNode

T = TypeVar("T")

#: How often somebody looks who polls.
LOOK_S = 0.05
#: About how long a call aside takes.
CALL_S = 0.002

DIALECTS: dict[str, type[Dialect]] = {"postgresql": PostgreSQL, "mariadb": MariaDB}


class Clock:
    """A machine's wall clock, which may jump."""

    def __init__(self) -> None:
        self.ahead_s = 0.0


class SimulatedWorld(AsyncWorld):
    """The outside of one process: virtual time, a wall clock that jumps, random bytes from the seed."""

    def __init__(self, schedule: Schedule, clock: Clock, random: Random, disk: Disk) -> None:
        self._disk = disk
        self._has_waited = False
        self._schedule = schedule
        self._clock = clock
        self._random = random

    def now(self) -> float:
        return self._schedule.now

    def unix_ms(self) -> int:
        return int((EPOCH_S + self._schedule.now + self._clock.ahead_s) * 1000)

    def random(self, count: int) -> bytes:
        return self._random.randbytes(count)

    async def sleep(self, seconds: float) -> None:
        # Looking at a lock a thousand times a second is nothing to a computer, and much to a simulation.
        await super().sleep(max(seconds, LOOK_S))

    async def aside(self, call: Callable[[], T]) -> T:
        await asyncio.sleep(CALL_S * self._disk.slowness * (0.5 + self._random.random()))
        while True:
            try:
                return call()
            except WouldWait:
                await asyncio.sleep(LOOK_S)
                self._has_waited = True

    def may_wait(self) -> bool:
        """Whether a call aside may let time pass; it has done so once when it is made again."""
        has_waited, self._has_waited = self._has_waited, False
        return not has_waited


class Process:
    """A process that may be killed: its loop, its manager, and the connections that its system closes for it."""

    def __init__(
        self,
        name: str,
        number: int,
        config: Config,
        network: Network,
        databases: Sequence[Server | SQLiteDatabase],
        clock: Clock,
        random: Random,
        machine: Machine,
    ) -> None:
        #: The machine; a restarted process has the same name and another number.
        self.name = name
        self.number = number
        #: Its manager was opened.
        self.is_open = False
        #: Its clients are done.
        self.idle = False
        #: Clients that have come for a while, and are at work.
        self.guests = 0
        #: Its background is at work.
        self.is_tending = False
        self.loop = ProcessLoop(network.schedule, name)
        self.loop.owner = self
        self.world = SimulatedWorld(network.schedule, clock, random, machine.disk)
        self._drivers = {
            server.name: SimulatedDriver(self.loop, network, name, server)
            for server in databases
            if isinstance(server, Server)
        }
        self._databases = {database.name: database for database in databases}
        self.manager = SimulatedManager(config, self)

    @property
    def goes_on(self) -> bool:
        """Whether it lives, and settles what it saw a while ago, or has yet to learn how a transaction of its own ended."""
        return self.is_open and not self.loop.dead and (self.is_tending or bool(self.manager.engine.unknown))

    def asking(self) -> list[str]:
        """The texts that it waits for an answer to."""
        return [session.asks for driver in self._drivers.values() for session in driver.sessions if session.asks]

    def nodes(self, config: Config) -> list[Node]:
        """Nodes as the registry makes them, with another driver."""
        return [self._node(name, config.domain, settings) for name, settings in config.nodes.items()]

    def _node(self, name: str, domain: str, settings: NodeSettings) -> Node:
        database = self._databases[name]
        if isinstance(database, SQLiteDatabase):
            return SimulatedSQLiteNode(
                database, domain, replace(settings, url=f"sqlite:///{database.path}"), self.world, self.loop
            )
        dialect, driver = DIALECTS[database.kind](), self._drivers[name]
        return SqlNode(name, domain, dialect=dialect, driver=driver, world=self.world, settings=settings)

    def kill(self, *, with_machine: bool) -> None:
        """Stop for ever. A machine that lost power resets no connection."""
        self.loop.kill()
        for driver in self._drivers.values():
            for session in driver.sessions:
                if with_machine:
                    session.cut = True
                else:
                    session.die()
        for database in self._databases.values():
            if isinstance(database, SQLiteDatabase):
                database.killed(self.loop)


class SimulatedManager(AsyncTransactionManager):
    """The public manager; only what it stands on is another."""

    def __init__(self, config: Config, process: Process) -> None:
        super().__init__(config)
        self._process = process

    def _make_engine(self, world: AsyncWorld | ThreadWorld) -> Engine:
        config = self._config
        nodes = self._process.nodes(config)
        return ObservedEngine(self._process, nodes, config)


class ObservedEngine(Engine):
    """The engine; its process can tell whether its background is at work."""

    def __init__(self, process: Process, nodes: Sequence[Node], config: Config) -> None:
        super().__init__(nodes, process.world, domain=config.domain, settings=config.settings)
        self._process = process

    async def tend(self) -> float:
        self._process.is_tending = True
        try:
            return await super().tend()
        finally:
            self._process.is_tending = False
