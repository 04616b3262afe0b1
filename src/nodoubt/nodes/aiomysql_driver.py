"""MariaDB and MySQL by aiomysql, asynchronous. The only file that imports aiomysql."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import aiomysql

from nodoubt.nodes.dialect import NodeSettings, Row, Session
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.nodes.guard import Guard
from nodoubt.nodes.mariadb_drivers import MULTI_STATEMENTS, MySQLConnection, options, refuse_login, understand, whole

#: How long a polite goodbye may take.
CLOSE_S_MAX = 2.0


class AiomysqlConnection(MySQLConnection):
    """aiomysql's connection, asking the branch's guard before each statement of the user."""

    __slots__ = ()

    def cursor(self, *cursors: Any) -> Any:
        self._guard.check_open()
        manager = self._raw.cursor(*cursors)
        manager._coro.result()._connection = self
        return manager

    async def query(self, sql: str | bytes | bytearray, unbuffered: bool = False) -> Any:
        with self.statement(sql):
            before = self._raw.server_status
            with _whole(self._raw):
                affected = await self._raw.query(sql, unbuffered)
            self.adopt_unbuffered()
            self.check_inside(sql, before)
        return affected

    async def next_result(self) -> Any:
        self._guard.check_open()
        try:
            with _whole(self._raw):
                return await self._raw.next_result()
        except BaseException as error:
            self._guard.failed(error)
            raise

    async def _read_packet(self, *arguments: Any) -> Any:
        try:
            with _whole(self._raw):
                return await self._raw._read_packet(*arguments)
        except BaseException as error:
            self._guard.failed(error)
            raise


class AiomysqlSession(Session):
    """See :class:`nodoubt.nodes.dialect.Session`."""

    __slots__ = ("_raw", "handle", "token")

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.token = ""
        self.handle = ""

    async def command(self, sql: str) -> str:
        await self._run(sql)
        return str(self._raw.affected_rows())

    async def query(self, sql: str) -> Sequence[Row]:
        return [tuple(row) for row in await self._run(sql)]

    async def _run(self, sql: str) -> Sequence[Row]:
        """Send a text and read all of its answers, as only the last says that all before it succeeded; the last rows."""
        raw = self._raw
        try:
            with _whole(raw):
                if raw._result is not None and raw._result.unbuffered_active:
                    await raw._result._finish_unbuffered_query()
                await raw.query(sql)
                rows = raw._result.rows
                while raw._result.has_next:
                    await raw.next_result()
                    rows = raw._result.rows or rows
        except Exception as error:
            failure = _understand(error)
            if isinstance(failure, ConnectionLost):
                _cut(raw)
            raise failure from error
        return rows or ()

    def bind(self, guard: Guard) -> AiomysqlConnection:
        return AiomysqlConnection(self._raw, guard)

    def unbind(self) -> None:
        # After a clean end nothing is left to read; after any other the connection is given up.
        if self._raw._result is not None:
            self._raw._result.unbuffered_active = False

    def abandon(self) -> None:
        _cut(self._raw)

    async def close(self) -> None:
        if (writer := self._raw._writer) is None:
            return
        try:
            with suppress(aiomysql.MySQLError, OSError):
                async with asyncio.timeout(CLOSE_S_MAX):
                    await self._raw.ensure_closed()
                    # The end of an encrypted line takes answers of the server, for which aiomysql does not wait.
                    await writer.wait_closed()
        finally:
            # aiomysql leaves a line open that it finds dead, or for whose end nobody waited.
            _cut(self._raw)
            writer.transport.abort()


def _cut(raw: Any) -> None:
    """Close without a word. The reader stays: whoever waits on it sees the end of the stream."""
    writer, raw._writer = raw._writer, None
    loop: asyncio.AbstractEventLoop = raw._loop
    if writer is None or loop.is_closed():
        return
    try:
        here = asyncio.get_running_loop() is loop
    except RuntimeError:
        here = False
    if here:
        writer.transport.abort()
    else:
        # A transport of asyncio may be touched by its own thread only.
        loop.call_soon_threadsafe(_abort, writer)


def _abort(writer: asyncio.StreamWriter) -> None:
    """Until it is called the writer is kept: one that is collected closes its line in whatever thread that happens."""
    writer.transport.abort()


_whole = partial(whole, cut=_cut, answers=aiomysql.MySQLError)


def _understand(error: Exception) -> StatementFailed | ConnectionLost:
    return understand(error, from_driver=isinstance(error, aiomysql.MySQLError))


class AiomysqlDriver:
    """See :class:`nodoubt.nodes.dialect.Driver`."""

    async def connect(self, settings: NodeSettings) -> AiomysqlSession:
        wanted = options(settings)
        wanted["db"] = wanted.pop("database")
        wanted["client_flag"] = wanted.get("client_flag", 0) | MULTI_STATEMENTS
        raw: Any = None
        try:
            raw = aiomysql.Connection(**wanted)
            # The greeting of a server that hangs must not be waited for longer than its port.
            async with asyncio.timeout(settings.connect_timeout_s):
                await raw._connect()
        except (aiomysql.MySQLError, OSError, RuntimeError, TypeError, ValueError) as error:
            _close(raw)
            raise refuse_login(error, from_driver=isinstance(error, aiomysql.MySQLError)) from error
        except BaseException:
            _close(raw)
            raise
        return AiomysqlSession(raw)


def _close(raw: Any) -> None:
    if raw is not None:
        raw.close()
