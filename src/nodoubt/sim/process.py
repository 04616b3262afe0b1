"""A simulated process: the real manager in a loop of its own, with nodes over simulated servers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

from nodoubt.engine.asynchronous import AsyncTransactionManager
from nodoubt.engine.config import Config
from nodoubt.engine.engine import Engine
from nodoubt.engine.worlds import AsyncWorld, ThreadWorld
from nodoubt.nodes.contract import Node
from nodoubt.nodes.dialect import Dialect
from nodoubt.nodes.mariadb import MariaDB
from nodoubt.nodes.postgresql import PostgreSQL
from nodoubt.nodes.sql import SqlNode
from nodoubt.sim.driver import SimulatedDriver
from nodoubt.sim.loop import ProcessLoop, Schedule
from nodoubt.sim.network import Network
from nodoubt.sim.server import EPOCH_S, Server

T = TypeVar("T")

DIALECTS: dict[str, type[Dialect]] = {"postgresql": PostgreSQL, "mariadb": MariaDB}


class Clock:
    """A machine's wall clock, which may jump."""

    def __init__(self) -> None:
        self.ahead_s = 0.0


class SimulatedWorld(AsyncWorld):
    """The outside of one process: virtual time, a wall clock that jumps, random bytes from the seed."""

    def __init__(self, schedule: Schedule, clock: Clock, random: Random) -> None:
        self._schedule = schedule
        self._clock = clock
        self._random = random

    def now(self) -> float:
        return self._schedule.now

    def unix_ms(self) -> int:
        return int((EPOCH_S + self._schedule.now + self._clock.ahead_s) * 1000)

    def random(self, count: int) -> bytes:
        return self._random.randbytes(count)

    async def aside(self, call: Callable[[], T]) -> T:
        return call()


class Process:
    """A process that may be killed: its loop, its manager, and the connections that its system closes for it."""

    def __init__(
        self,
        name: str,
        number: int,
        config: Config,
        network: Network,
        servers: list[Server],
        clock: Clock,
        random: Random,
    ) -> None:
        #: The machine; a restarted process has the same name and another number.
        self.name = name
        self.number = number
        #: Its manager was opened.
        self.is_open = False
        #: Its clients are done.
        self.idle = False
        self.loop = ProcessLoop(network.schedule, name)
        self.loop.owner = self
        self.world = SimulatedWorld(network.schedule, clock, random)
        self._drivers = {server.name: SimulatedDriver(self.loop, network, name, server) for server in servers}
        self._kinds = {server.name: server.kind for server in servers}
        self.manager = SimulatedManager(config, self)

    def asking(self) -> list[str]:
        """The texts that it waits for an answer to."""
        return [session.asks for driver in self._drivers.values() for session in driver.sessions if session.asks]

    def nodes(self, config: Config) -> list[Node]:
        """Nodes as the registry makes them, with another driver."""
        return [
            SqlNode(
                name,
                config.domain,
                dialect=DIALECTS[self._kinds[name]](),
                driver=self._drivers[name],
                world=self.world,
                settings=settings,
            )
            for name, settings in config.nodes.items()
        ]

    def kill(self, *, with_machine: bool) -> None:
        """Stop for ever. A machine that lost power resets no connection."""
        self.loop.kill()
        for driver in self._drivers.values():
            for session in driver.sessions:
                if with_machine:
                    session.cut = True
                else:
                    session.die()


class SimulatedManager(AsyncTransactionManager):
    """The public manager; only what it stands on is another."""

    def __init__(self, config: Config, process: Process) -> None:
        super().__init__(config)
        self._process = process

    def _make_engine(self, world: AsyncWorld | ThreadWorld) -> Engine:
        config = self._config
        nodes = self._process.nodes(config)
        return Engine(nodes, self._process.world, domain=config.domain, settings=config.settings)
