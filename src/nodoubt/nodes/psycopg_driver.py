"""PostgreSQL by psycopg 3, synchronous and asynchronous. The only file that imports psycopg.

What is sent and how answers are read is written once, as generators; the two kinds of sessions differ in how they wait, as in
psycopg itself. Our own texts go to libpq as simple queries, past cursors, guards and psycopg's idea of transactions: its
``tpc_prepare()`` hides the tag that tells a vote of no from a yes. The user's statements pass the guard in :class:`GuardedCursor`
and :class:`GuardedAsyncCursor`, whatever cursor class is asked for.
"""

from __future__ import annotations

import math
import os
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import lru_cache
from typing import Any, ClassVar

import psycopg
from psycopg import generators, pq, waiting
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.sql import Composable

from nodoubt.errors import ConfigError, NodeUnavailable
from nodoubt.nodes.dialect import NodeSettings, Row, Session
from nodoubt.nodes.failures import CHECK_LOGIN, ConnectionLost, StatementFailed
from nodoubt.nodes.guard import BranchConnection, Guard

#: How often a wait without an end looks for Ctrl-C.
_WAIT_S = 0.1

_MINE = "the connection belongs to nodoubt for as long as it is open"
_ENDS = "the block ends the transaction by itself: leave it to commit, raise or call tx.rollback() to abort"
_PLAN = "nodoubt prepares and decides by itself"
_LIMITS_BELOW = {
    **dict.fromkeys(("close", "cancel", "cancel_safe", "autocommit=", "set_autocommit"), _MINE),
    **dict.fromkeys(("commit", "rollback", "__enter__", "__aenter__"), _ENDS),
    **dict.fromkeys(("xid", "tpc_begin", "tpc_prepare", "tpc_commit", "tpc_rollback", "tpc_recover"), _PLAN),
}
_LIMITS = {
    **_LIMITS_BELOW,
    # Cursors made from their class would send statements past the guard.
    **dict.fromkeys(("lock", "wait"), "statements go through conn.execute() and conn.cursor()"),
    **dict.fromkeys(("add_notice_handler", "add_notify_handler"), ""),
}

#: libpq keeps the SQLSTATE of a refused login to itself. A server that words this differently counts as unavailable.
_WRONG_LOGIN = re.compile(
    r"authentication failed|no password supplied|does not exist|is not permitted to log in|no pg_hba\.conf entry"
)

#: psycopg drops its prepared statements by DEALLOCATE ALL, which would take those of the dialect along.
_DEALLOCATE_OWN = (
    r"DO $$DECLARE own text; BEGIN FOR own IN SELECT name FROM pg_prepared_statements WHERE name LIKE '\_pg3\_%'"
    r" LOOP EXECUTE format('DEALLOCATE %I', own); END LOOP; END$$"
)


class _UserConnection(BranchConnection):
    __slots__ = ()
    _limits = _LIMITS


class _CursorConnection(BranchConnection):
    """The connection that cursors, savepoints and pipelines of one branch work on: dead when the branch is over."""

    __slots__ = ()
    _limits = _LIMITS_BELOW

    def __setattr__(self, name: str, value: Any) -> None:
        self._guard.check_open()
        setattr(self._raw, name, value)

    @property
    def guard(self) -> Guard:
        guard: Guard = self._guard
        return guard


class _GuardedCursor:
    """What both kinds of guarded cursors share. psycopg's own class comes behind it in the order of inheritance."""

    __slots__ = ()
    _conn: _CursorConnection

    def __init__(self, connection: Any, *args: Any, **options: Any) -> None:
        super().__init__(connection.inner, *args, **options)  # type: ignore[call-arg]

    def __del__(self, *_: Any) -> None:
        """A server-side cursor ends with its branch: leaving it open deserves no warning."""

    def _statement(self, query: Any) -> Guard:
        text = _text(query, self._conn)
        if getattr(self, "withhold", False):
            text = f"DECLARE c CURSOR WITH HOLD FOR {text}"
        return self._conn.guard.statement(text)


class GuardedCursor(_GuardedCursor):
    """Asks the guard before each statement of a synchronous cursor."""

    __slots__ = ()

    def execute(self, query: Any, *args: Any, **options: Any) -> Any:
        with self._statement(query):
            return super().execute(query, *args, **options)  # type: ignore[misc]

    def executemany(self, query: Any, *args: Any, **options: Any) -> None:
        with self._statement(query):
            super().executemany(query, *args, **options)  # type: ignore[misc]

    def stream(self, query: Any, *args: Any, **options: Any) -> Iterator[Any]:
        # A statement in the loop would wait for psycopg's lock for ever, so the guard holds on until the last row.
        with self._statement(query):
            try:
                yield from super().stream(query, *args, **options)  # type: ignore[misc]
            except GeneratorExit:
                # Leaving the loop early is no failure; if psycopg had to cancel the query, the tag of the vote tells.
                return

    @contextmanager
    def copy(self, statement: Any, *args: Any, **options: Any) -> Iterator[Any]:
        with self._statement(statement), super().copy(statement, *args, **options) as copy:  # type: ignore[misc]
            yield copy


class GuardedAsyncCursor(_GuardedCursor):
    """Asks the guard before each statement of an asynchronous cursor."""

    __slots__ = ()

    async def execute(self, query: Any, *args: Any, **options: Any) -> Any:
        with self._statement(query):
            return await super().execute(query, *args, **options)  # type: ignore[misc]

    async def executemany(self, query: Any, *args: Any, **options: Any) -> None:
        with self._statement(query):
            await super().executemany(query, *args, **options)  # type: ignore[misc]

    def stream(self, query: Any, *args: Any, **options: Any) -> AsyncIterator[Any]:
        # asyncio closes a generator that was left early only some time later: the guard must not wait for that.
        with self._statement(query):
            rows: AsyncIterator[Any] = super().stream(query, *args, **options)  # type: ignore[misc]
        return rows

    @asynccontextmanager
    async def copy(self, statement: Any, *args: Any, **options: Any) -> AsyncIterator[Any]:
        with self._statement(statement):
            async with super().copy(statement, *args, **options) as copy:  # type: ignore[misc]
                yield copy


def _text(query: Any, context: Any) -> str:
    """The text of a query as the guard reads it: parameters do not matter."""
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):
        return query.decode(errors="replace")
    if isinstance(query, Composable):
        return query.as_string(context)
    if hasattr(query, "interpolations"):
        # A template string (PEP 750): only what is spliced in as SQL is part of the text.
        parts = [p if isinstance(p, str) else _text(p.value, context) if p.format_spec == "q" else "''" for p in query]
        return "".join(parts)
    return str(query)


@lru_cache(maxsize=64)
def _guarded(factory: type) -> type:
    """The guarded subclass of a cursor class, so that ClientCursor and the user's own classes are guarded alike."""
    if issubclass(factory, _GuardedCursor):
        return factory
    mixin = GuardedAsyncCursor if issubclass(factory, psycopg.AsyncCursor) else GuardedCursor
    return type(f"Guarded{factory.__name__}", (mixin, factory), {"__slots__": ()})


class _Guarded:
    """What both guarded connections share. psycopg's own class comes behind it in the order of inheritance."""

    _plain: ClassVar[Any]
    guard: Guard | None = None
    inner: _CursorConnection | None = None

    def __del__(self, *_: Any) -> None:
        """Say nothing: sessions that were cut off are left to be collected."""

    @property
    def cursor_factory(self) -> Any:
        return _guarded(self.__dict__["cursor_factory"])

    @cursor_factory.setter
    def cursor_factory(self, factory: type) -> None:
        self.__dict__["cursor_factory"] = factory

    @property
    def server_cursor_factory(self) -> Any:
        return _guarded(self.__dict__["server_cursor_factory"])

    @server_cursor_factory.setter
    def server_cursor_factory(self, factory: type) -> None:
        self.__dict__["server_cursor_factory"] = factory

    @property
    def connection(self) -> Any:
        return self.inner or self

    def transaction(self, *args: Any, **options: Any) -> Any:
        """A savepoint: the branch is in a transaction already."""
        return self._plain.transaction(self.inner, *args, **options)

    def pipeline(self) -> Any:
        """psycopg's pipeline; its errors come late, and the tag of the vote tells them."""
        return self._plain.pipeline(self.inner)

    def _exec_command(self, command: Any, *args: Any, **options: Any) -> Generator[Any, Any, Any]:
        """psycopg's own texts, savepoints among them, which the guard must follow."""
        result = yield from super()._exec_command(command, *args, **options)  # type: ignore[misc]
        if self.guard is not None:
            self.guard.follow(_text(command, self))
        return result

    def _deallocate(self, name: bytes | None) -> Generator[Any, Any, Any]:
        if name is None:
            yield from self._exec_command(_DEALLOCATE_OWN)
        else:
            yield from super()._deallocate(name)  # type: ignore[misc]


class GuardedConnection(_Guarded, psycopg.Connection[Any]):
    """psycopg's connection, asking the branch's guard before each statement of the user."""

    _plain = psycopg.Connection


class GuardedAsyncConnection(_Guarded, psycopg.AsyncConnection[Any]):
    """psycopg's asynchronous connection, asking the branch's guard before each statement of the user."""

    _plain = psycopg.AsyncConnection


class _Session(Session, ABC):
    """See :class:`nodoubt.nodes.dialect.Session`."""

    __slots__ = ("_adapters", "_line", "_raw", "announced", "handle", "token")

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.announced = int(raw.pgconn.backend_pid)
        self._adapters: AdaptersMap | None = raw._adapters
        # A descriptor of our own: libpq closes its one when it likes, and by then the number may be a stranger's.
        self._line: socket.socket | None = socket.socket(fileno=os.dup(raw.pgconn.socket))
        self.token = ""
        self.handle = ""

    @abstractmethod
    async def _carry(self, sql: str) -> list[pq.abc.PGresult]:
        """Send a text and wait for all of its results. Raises StatementFailed or ConnectionLost."""

    async def command(self, sql: str) -> str:
        return ((await self._carry(sql))[-1].command_status or b"").decode()

    async def query(self, sql: str) -> Sequence[Row]:
        result = (await self._carry(sql))[-1]
        # The user's adapters and row factories are none of ours.
        reader = Transformer()
        reader.set_pgresult(result)
        return reader.load_rows(0, result.ntuples, tuple)

    def bind(self, guard: Guard) -> BranchConnection:
        raw = self._raw
        raw.guard = guard
        raw.inner = _CursorConnection(raw, guard)
        raw._adapters = AdaptersMap(self._adapters) if self._adapters else None
        return _UserConnection(raw, guard)

    def unbind(self) -> None:
        raw = self._raw
        guard, raw.guard, raw.inner = raw.guard, None, None
        if guard is None:
            return
        if raw._num_transactions or raw._pipeline:
            # Somebody still holds a savepoint or a pipeline open.
            guard.lasting = True
        if guard.failure is not None:
            # What psycopg believes to be prepared may have failed with the rest.
            raw._prepared.clear()

    def is_outside(self) -> bool:
        return bool(self._raw.pgconn.transaction_status == pq.TransactionStatus.IDLE)

    def abandon(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()

    async def close(self) -> None:
        # libpq's farewell is one packet that nobody answers.
        self._raw.pgconn.finish()
        self.abandon()


class PsycopgSession(_Session):
    """A session that blocks."""

    __slots__ = ()

    async def _carry(self, sql: str) -> list[pq.abc.PGresult]:
        raw = self._raw
        if not raw.lock.acquire(blocking=False):
            raise ConnectionLost("another thread still uses the connection")
        try:
            # Not raw.wait(): on Ctrl-C that would cancel our own text and wait for the server.
            steps = _simple_query(raw.pgconn, sql)
            results: list[pq.abc.PGresult] = waiting.wait(steps, raw.pgconn.socket, interval=_WAIT_S)
            return results
        except psycopg.Error as error:
            raise _explain(error, raw) from error
        finally:
            raw.lock.release()


class AsyncPsycopgSession(_Session):
    """A session that suspends."""

    __slots__ = ()

    async def _carry(self, sql: str) -> list[pq.abc.PGresult]:
        raw = self._raw
        if raw.lock.locked():
            raise ConnectionLost("another task still uses the connection")
        async with raw.lock:
            try:
                steps = _simple_query(raw.pgconn, sql)
                results: list[pq.abc.PGresult] = await waiting.wait_async(steps, raw.pgconn.socket, interval=_WAIT_S)
                return results
            except psycopg.Error as error:
                raise _explain(error, raw) from error


def _simple_query(pgconn: pq.abc.PGconn, sql: str) -> Generator[Any, Any, list[pq.abc.PGresult]]:
    """Send one packet; its results, the last one of them the answer to the last statement."""
    pgconn.send_query(sql.encode())
    results: list[pq.abc.PGresult] = yield from generators.execute(pgconn)
    for result in results:
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
    return results


def _explain(error: psycopg.Error, raw: Any) -> StatementFailed | ConnectionLost:
    """The one place where psycopg's errors are understood: an answer of the server, or no answer."""
    fatal = error.diag.severity_nonlocalized in ("FATAL", "PANIC")
    if error.sqlstate and not fatal and raw.pgconn.status == pq.ConnStatus.OK:
        constraint = f"{error.diag.schema_name}.{error.diag.constraint_name}"
        return StatementFailed(error.sqlstate, str(error), constraint)
    return ConnectionLost(f"{type(error).__name__}: {error}")


def _login(settings: NodeSettings) -> dict[str, Any]:
    """What both kinds of connections are opened with; libpq counts its time-out in whole seconds."""
    return {
        "autocommit": True,
        "application_name": "nodoubt",
        "client_encoding": "utf8",
        "connect_timeout": max(1, math.ceil(settings.connect_timeout_s)),
        **settings.options,
    }


@contextmanager
def _connecting() -> Iterator[None]:
    """Say in our words why a login failed."""
    try:
        yield
    except psycopg.Error as error:
        if isinstance(error, psycopg.ProgrammingError) or _WRONG_LOGIN.search(str(error)):
            raise ConfigError(f"cannot log in: {error}", hint=CHECK_LOGIN) from error
        raise NodeUnavailable(
            f"cannot connect: {type(error).__name__}: {error}", hint="is the server running?"
        ) from error


class PsycopgDriver:
    """See :class:`nodoubt.nodes.dialect.Driver`. Its coroutines block and never suspend."""

    async def connect(self, settings: NodeSettings) -> PsycopgSession:
        with _connecting():
            return PsycopgSession(GuardedConnection.connect(settings.url, **_login(settings)))


class AsyncPsycopgDriver:
    """See :class:`nodoubt.nodes.dialect.Driver`."""

    async def connect(self, settings: NodeSettings) -> AsyncPsycopgSession:
        with _connecting():
            return AsyncPsycopgSession(await GuardedAsyncConnection.connect(settings.url, **_login(settings)))
