"""The driver of simulated servers: sessions of a process, and the connection that a block works on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import copy_context
from typing import Any

from nodoubt.errors import NodeUnavailable
from nodoubt.nodes.dialect import NodeSettings, Row, Session
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.nodes.guard import BranchConnection, Guard
from nodoubt.sim.loop import Handle, ProcessLoop
from nodoubt.sim.network import Line, Network
from nodoubt.sim.server import Answer, Packet, Rows, Server
from nodoubt.sim.store import SqlError


class SimulatedError(Exception):
    """What a block gets from the driver: as asyncpg's errors it has a ``sqlstate``, as PyMySQL's the number first."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.sqlstate = code


class SimulatedConnection:
    """What a block works on."""

    def __init__(self, session: SimulatedSession, guard: Guard) -> None:
        self._session = session
        self._guard = guard

    async def execute(self, sql: str, *values: Any) -> Rows:
        """Run one statement; returns its rows. Raises SimulatedError, and ConnectionError when no answer came."""
        with self._guard.statement(sql):
            try:
                return (await self._session.call(sql, values, by_user=True))[1]
            except StatementFailed as failure:
                raise SimulatedError(failure.code, str(failure)) from failure
            except ConnectionLost as lost:
                raise ConnectionError(str(lost)) from lost


class SimulatedSession(Session):
    """See :class:`nodoubt.nodes.dialect.Session`."""

    def __init__(self, loop: ProcessLoop, network: Network, machine: str, server: Server) -> None:
        self.token = ""
        self.handle = ""
        self.loop = loop
        self.cut = False
        self._number = 0
        self._text = ""
        self._waiting: asyncio.Future[Answer] | None = None
        self._line = Line(network, machine, server, self)
        self._observer = network.observer
        self._network = network
        self._server = server.name
        self._names = f"{server.name}#{self._line.backend.number}"
        self._machine = machine
        #: asyncpg's way, not aiomysql's.
        self._is_postgresql = server.kind == "postgresql"
        self._begin = ""

    @property
    def is_there(self) -> bool:
        """Whether the server has it still."""
        return self._line.backend.alive

    def begin_later(self, sql: str) -> bool:
        if self.cut:
            raise ConnectionLost("the server ended the session while it idled")
        if self._is_postgresql:
            self._begin = sql
        return self._is_postgresql

    async def begin_now(self) -> None:
        if self._begin:
            text, self._begin = self._begin, ""
            await self.call(text)

    async def call(self, text: str, values: tuple[Any, ...] = (), *, by_user: bool = False) -> Answer:
        """Send a packet and wait for its answer."""
        if self.cut:
            raise ConnectionLost("the connection is closed")
        if self._begin:
            text, self._begin = f"{self._begin};{text}", ""
        self._number += 1
        number = self._number
        self._text = text
        waiting: asyncio.Future[Answer] = self.loop.create_future()
        self._waiting = waiting
        if self._observer.lines is not None:
            self._observer.say(self._machine, f"> {self._names} {text} {values or ''}")
        packet = Packet(number, text, values, by_user)
        if self.loop.paused:
            # Stopped between two of its own steps: it is sent when the process wakes.
            self.loop.withheld.append(Handle((self._line.send, (packet,), copy_context(), self.loop)))
        else:
            self._line.send(packet)
        if (overhear := self._network.overhear) is not None:
            overhear(self._machine, self._server, text)
        try:
            return await waiting
        except asyncio.CancelledError:
            # As the drivers do: asyncpg asks the server to stop, aiomysql gives the connection up.
            if self._is_postgresql and not self.cut:
                self._line.cancel(number)
            else:
                self.abandon()
            raise

    @property
    def asks(self) -> str:
        """What it waits for an answer to; "" if it waits for none."""
        return self._text if self._waiting is not None and not self._waiting.done() else ""

    def answered(self, number: int, answer: Answer | SqlError) -> None:
        """The network brings an answer."""
        waiting = self._waiting
        if waiting is None or number != self._number or self._is_deaf() or waiting.done():
            return
        if self._observer.lines is not None:
            said = f"{answer.code} {answer}" if isinstance(answer, SqlError) else f"{answer[0]} {list(answer[1])}"
            self._observer.say(self._machine, f"< {self._names} {said}")
        if isinstance(answer, SqlError):
            waiting.set_exception(StatementFailed(answer.code, str(answer), answer.constraint))
        else:
            waiting.set_result(answer)

    def lost(self, why: str) -> None:
        """The network brings a reset."""
        if self._is_deaf():
            return
        self._end(why)

    def _is_deaf(self) -> bool:
        return self.cut or self.loop.dead

    def _end(self, why: str) -> None:
        self.cut = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionLost(why))

    def die(self) -> None:
        """The process is gone, and its system closes what it had open."""
        if not self.cut:
            self.cut = True
            self._line.hang_up()

    async def command(self, sql: str) -> str:
        return (await self.call(sql))[0]

    async def query(self, sql: str) -> Sequence[Row]:
        return (await self.call(sql))[1]

    def bind(self, guard: Guard) -> BranchConnection:
        return BranchConnection(SimulatedConnection(self, guard), guard)

    def unbind(self) -> None:
        """Nothing is kept for a user."""

    def abandon(self) -> None:
        # A process that was killed does nothing more, whatever Python tidies up behind it.
        if not self._is_deaf():
            self._end("the connection was cut off")
            self._line.hang_up()

    async def close(self) -> None:
        self.abandon()


class SimulatedDriver:
    """See :class:`nodoubt.nodes.dialect.Driver`."""

    def __init__(self, loop: ProcessLoop, network: Network, machine: str, server: Server) -> None:
        self._loop = loop
        self._network = network
        self._machine = machine
        self._server = server
        self.sessions: list[SimulatedSession] = []

    async def connect(self, settings: NodeSettings) -> SimulatedSession:
        network, server = self._network, self._server
        if not network.reaches(self._machine, server):
            await asyncio.sleep(settings.connect_timeout_s)
            raise NodeUnavailable(f"cannot connect to {server.name}: timed out")
        await asyncio.sleep(2 * network.latency_s(self._machine) * network.factor())
        if not server.up:
            raise NodeUnavailable(f"cannot connect to {server.name}: connection refused")
        session = SimulatedSession(self._loop, network, self._machine, server)
        self.sessions.append(session)
        return session
