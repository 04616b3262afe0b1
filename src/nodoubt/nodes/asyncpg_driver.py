"""PostgreSQL by asyncpg, asynchronous. The only file that imports asyncpg."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
from asyncpg.transaction import Transaction

from nodoubt.errors import ConfigError, NodeUnavailable
from nodoubt.nodes.dialect import NodeSettings, Row, Session
from nodoubt.nodes.failures import CHECK_LOGIN, ConnectionLost, StatementFailed
from nodoubt.nodes.guard import BranchConnection, Guard
from nodoubt.nodes.postgresql_rider import Rider

_Connection = asyncpg.Connection
#: All that asyncpg raises for a connection, the last one where the server's goodbye was read and the end behind it was not yet.
_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, asyncpg.InternalClientError)
_WRONG_LOGIN = (
    *(asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError),
    # An option of the URL that the server does not know, or does not take.
    *(asyncpg.UndefinedObjectError, asyncpg.InvalidParameterValueError, asyncpg.CantChangeRuntimeParamError),
)
_MINE = "the connection belongs to nodoubt for as long as it is open"
_LIMITS = {
    **dict.fromkeys(("close", "terminate", "reset", "reload_schema_state"), _MINE),
    **dict.fromkeys(
        ("add_listener", "set_type_codec", "set_builtin_type_codec", "add_log_listener", "add_query_logger"), ""
    ),
}


class GuardedConnection(asyncpg.Connection):  # type: ignore[misc]
    """asyncpg's connection, asking the branch's guard before each statement of the user."""

    __slots__ = ("guard", "rider")
    guard: Guard
    rider: Rider

    def _statement(self, query: str) -> Guard:
        """Enter a statement that asyncpg sends as an extended query."""
        guard = self.guard.statement(query)
        if self.rider.waiting:
            self.rider.ride()
        return guard

    async def _alone(self, query: str) -> Guard:
        """Enter a statement that asyncpg sends as a simple query, which a BEGIN that failed beside it would not stop."""
        guard = self.guard.statement(query)
        if self.rider.waiting:
            try:
                await _Connection.execute(self, self.rider.waiting)
            except BaseException as error:
                guard.__exit__(type(error), error, None)
                raise
            self.rider.waiting = ""
        return guard

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        with self._statement(query) if args else await self._alone(query):
            tag: str = await _Connection.execute(self, query, *args, **options)
        return tag

    async def executemany(self, command: str, args: Any, **options: Any) -> Any:
        # For arguments that it cannot encode asyncpg rolls back what it takes for a transaction of its own.
        with await self._alone(command):
            return await _Connection.executemany(self, command, args, **options)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        with self._statement(query):
            return await _Connection.fetch(self, query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        with self._statement(query):
            return await _Connection.fetchval(self, query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        with self._statement(query):
            return await _Connection.fetchrow(self, query, *args, **options)

    async def fetchmany(self, query: str, args: Any, **options: Any) -> Any:
        with await self._alone(query):
            return await _Connection.fetchmany(self, query, args, **options)

    async def prepare(self, query: str, **options: Any) -> Any:
        # asyncpg asks for the description without a Sync, and hears nothing of a transaction that a BEGIN beside it began.
        with await self._alone(query):
            return await _Connection.prepare(self, query, **options)

    def cursor(self, query: str, *args: Any, **options: Any) -> Any:
        with self._statement(query):
            return _Connection.cursor(self, query, *args, **options)

    async def _copy_in(self, copy_stmt: str, *args: Any) -> Any:
        with await self._alone(copy_stmt):
            return await _Connection._copy_in(self, copy_stmt, *args)

    async def _copy_out(self, copy_stmt: str, *args: Any) -> Any:
        with await self._alone(copy_stmt):
            return await _Connection._copy_out(self, copy_stmt, *args)

    async def copy_records_to_table(self, table_name: str, **options: Any) -> Any:
        with await self._alone(f"COPY {table_name} FROM STDIN"):
            return await _Connection.copy_records_to_table(self, table_name, **options)

    def is_in_transaction(self) -> bool:
        """Always, for a user: a cursor may be the first statement."""
        return True


class _UserConnection(BranchConnection):
    __slots__ = ()
    _limits = _LIMITS


class AsyncpgSession(Session):
    """See :class:`nodoubt.nodes.sql.Session`."""

    __slots__ = ("_outer", "_protocol", "_raw", "_rider", "announced", "handle", "token")

    def __init__(self, raw: GuardedConnection) -> None:
        self._raw = raw
        self.announced = int(raw.get_server_pid())
        #: Past `Connection.execute`, whose loggers and checks are for a user's statements.
        self._protocol = raw._protocol
        self._rider = raw.rider = Rider(raw._transport, raw._protocol)
        self._outer = Transaction(raw, None, False, False)
        self.token = ""
        self.handle = ""

    def begin_later(self, sql: str) -> bool:
        if not self._rider.is_idle():
            raise ConnectionLost("the server ended the session while it idled")
        self._rider.waiting = sql
        return True

    async def begin_now(self) -> None:
        if self._rider.waiting:
            await self.command("")

    async def command(self, sql: str) -> str:
        if self._rider.waiting:
            sql, self._rider.waiting = f"{self._rider.waiting};{sql}", ""
        try:
            tag: str = await self._protocol.query(sql, None)
        except _ERRORS as error:
            raise _explain(error, self._raw) from error
        return tag

    async def query(self, sql: str) -> Sequence[Row]:
        try:
            records = await _Connection.fetch(self._raw, sql)
        except _ERRORS as error:
            raise _explain(error, self._raw) from error
        return [tuple(record) for record in records]

    def bind(self, guard: Guard) -> BranchConnection:
        self._raw.guard = guard
        # asyncpg's own nested transactions become savepoints when it believes that it began the outer one.
        self._raw._top_xact = self._outer
        return _UserConnection(self._raw, guard)

    def fence(self) -> None:
        # By this asyncpg tells statements and cursors of an earlier owner, and refuses them.
        self._raw._pool_release_ctr += 1

    def unbind(self) -> None:
        self._raw._top_xact = None

    def is_outside(self) -> bool:
        return not self._rider.is_under_way() and not self._protocol.is_in_transaction()

    def abandon(self) -> None:
        loop: asyncio.AbstractEventLoop = self._raw._loop
        if loop is _running_loop():
            self._raw.terminate()
        elif not loop.is_closed():
            # A transport of asyncio may be touched by its own thread only.
            loop.call_soon_threadsafe(self._raw.terminate)

    async def close(self) -> None:
        try:
            await _Connection.close(self._raw, timeout=2)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            self._raw.terminate()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _explain(error: Exception, raw: GuardedConnection) -> StatementFailed | ConnectionLost:
    """The one place where asyncpg's errors are understood: an answer of the server, or no answer."""
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate and not raw.is_closed():
        fields = error.as_dict()
        return StatementFailed(
            error.sqlstate, str(error), f"{fields.get('schema_name')}.{fields.get('constraint_name')}"
        )
    return ConnectionLost(f"{type(error).__name__}: {error}")


class AsyncpgDriver:
    """See :class:`nodoubt.nodes.sql.Driver`."""

    async def connect(self, settings: NodeSettings) -> AsyncpgSession:
        try:
            raw = await asyncpg.connect(
                settings.url,
                timeout=settings.connect_timeout_s,
                connection_class=GuardedConnection,
                server_settings={"application_name": "nodoubt"},
                **settings.options,
            )
        except (*_WRONG_LOGIN, ValueError, TypeError, OverflowError) as error:
            raise ConfigError(f"cannot log in: {error}", hint=CHECK_LOGIN) from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise NodeUnavailable(
                f"cannot connect: {type(error).__name__}: {error}", hint="is the server running?"
            ) from error
        return AsyncpgSession(raw)
