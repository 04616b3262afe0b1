"""Counts what the real drivers send and what a SQLite node asks of its disk; lets one of these calls fail, or its process die.

The seams are the drivers' own: what asyncpg and aiomysql send, opening and closing a connection, our statements on SQLite, and
the files of its journal. What a block sends on SQLite is between it and apsw.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, NoReturn

import aiomysql
import asyncpg
from pymysql.err import OperationalError

from nodoubt.errors import NodeUnavailable
from nodoubt.journal.files import Files
from nodoubt.nodes import asyncpg_driver
from nodoubt.nodes.aiomysql_driver import AiomysqlDriver
from nodoubt.nodes.apsw_driver import Session
from nodoubt.nodes.asyncpg_driver import AsyncpgDriver, AsyncpgSession
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.sim.fuse import CRASHES, FILES
from nodoubt.sim.seam import swapped

_OURS = (ConnectionLost, StatementFailed)


class Fuse:
    """Strikes the ``number``-th call, counted from 1, while it is armed."""

    def __init__(self, number: int, mode: str) -> None:
        self.armed = False
        #: What was struck; "" if nothing was.
        self.struck = ""
        self._left = number
        self._mode = mode

    def _meets(self, what: str) -> bool:
        self._left -= self.armed
        if self._left or self.struck or not self.armed:
            return False
        self.struck = what
        if self._mode == "crash before":
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    def _done(self) -> None:
        if self._mode in CRASHES:
            os.kill(os.getpid(), signal.SIGKILL)

    async def around(
        self,
        what: str,
        call: Callable[[], Coroutine[Any, Any, Any]],
        fail: Callable[[], NoReturn],
        rest: Callable[[], Coroutine[Any, Any, Any]] | None = None,
    ) -> Any:
        """A call that waits; ``rest`` waits for what it does behind its first answer."""
        if not self._meets(what):
            return await call()
        if self._mode.endswith("after"):
            with contextlib.suppress(asyncpg.PostgresError, OperationalError, NodeUnavailable, *_OURS):
                await call()
                if rest is not None:
                    await rest()
            self._done()
        return fail()

    def around_now(self, what: str, call: Callable[[], Any], fail: Callable[[bool], NoReturn]) -> Any:
        """A call that does not wait; ``fail`` is told whether it was made."""
        if not self._meets(what):
            return call()
        after = self._mode.endswith("after")
        if after:
            with contextlib.suppress(OSError, *_OURS):
                call()
            self._done()
        return fail(after)


@contextmanager
def laid(fuse: Fuse) -> Iterator[None]:
    """Let every call of this process pass by a fuse."""
    with ExitStack() as stack:
        for seam in (_asyncpg, _aiomysql, _connects, _sqlite):
            for owner, name, other in seam(fuse):
                stack.enter_context(swapped(owner, name, other))
        yield


Swaps = Iterator[tuple[object, str, object]]


def _asyncpg(fuse: Fuse) -> Swaps:
    original = asyncpg_driver._Connection

    def counting(name: str) -> Callable[..., Any]:
        call = getattr(original, name)

        async def counted(raw: Any, *arguments: Any, **options: Any) -> Any:
            def fail() -> NoReturn:
                raw.terminate()
                raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

            return await fuse.around(f"{name} {arguments}", lambda: call(raw, *arguments, **options), fail)

        return counted

    command = AsyncpgSession.command

    async def counted_command(session: Any, sql: str) -> Any:
        def fail() -> NoReturn:
            session._raw.terminate()
            raise ConnectionLost("the connection was closed in the middle of operation")

        return await fuse.around(f"command {sql}", lambda: command(session, sql), fail)

    yield AsyncpgSession, "command", counted_command
    yield (
        asyncpg_driver,
        "_Connection",
        SimpleNamespace(**{name: counting(name) for name in ("execute", "fetch", "close")}),
    )


def _aiomysql(fuse: Fuse) -> Swaps:
    query, close = aiomysql.Connection.query, aiomysql.Connection.ensure_closed

    def failing(raw: Any) -> Callable[[], NoReturn]:
        def fail() -> NoReturn:
            raw.close()
            raise OperationalError(2013, "Lost connection to server during query")

        return fail

    async def counted_query(raw: Any, sql: Any, *arguments: Any, **options: Any) -> Any:
        async def rest() -> None:
            while raw._result.has_next:
                await raw.next_result()

        return await fuse.around(str(sql), lambda: query(raw, sql, *arguments, **options), failing(raw), rest)

    async def counted_close(raw: Any) -> Any:
        return await fuse.around("close", lambda: close(raw), failing(raw))

    yield aiomysql.Connection, "query", counted_query
    yield aiomysql.Connection, "ensure_closed", counted_close


def _connects(fuse: Fuse) -> Swaps:
    def counting(connect: Any) -> Callable[..., Any]:
        async def counted(driver: Any, settings: Any) -> Any:
            made: list[Any] = []

            async def make() -> Any:
                made.append(await connect(driver, settings))
                return made[0]

            def fail() -> NoReturn:
                for session in made:
                    session.abandon()
                raise NodeUnavailable("the connection was lost while it was opened")

            return await fuse.around("connect", make, fail)

        return counted

    for driver in (AsyncpgDriver, AiomysqlDriver):
        yield driver, "connect", counting(driver.connect)


def _sqlite(fuse: Fuse) -> Swaps:
    command = Session.command

    def counted_command(self: Session, sql: str, *values: Any) -> Any:
        def fail(after: bool) -> NoReturn:
            if after:
                # SQLite may roll everything back by itself where it reports such an error.
                self.roll_back()
            raise StatementFailed("SQLITE_IOERR", "disk I/O error")

        return fuse.around_now(sql, lambda: command(self, sql, *values), fail)

    def counting(name: str) -> Callable[..., Any]:
        call = getattr(Files, name)

        def fail(after: bool) -> NoReturn:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        return lambda self, *arguments: fuse.around_now(f"{name} {arguments}", lambda: call(self, *arguments), fail)

    yield Session, "command", counted_command
    for name in FILES:
        # Linux closes a file even where it reports an error.
        if name != "close":
            yield Files, name, counting(name)
