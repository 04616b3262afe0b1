"""MariaDB and MySQL by PyMySQL, synchronous. The only file that imports pymysql.

The coroutines here block and never suspend: they belong to a world of threads.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import pymysql

from nodoubt.nodes.dialect import NodeSettings, Row, Session
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.nodes.guard import Guard
from nodoubt.nodes.mariadb_drivers import MULTI_STATEMENTS, MySQLConnection, options, refuse_login, understand, whole


class PymysqlConnection(MySQLConnection):
    """PyMySQL's connection, asking the branch's guard before each statement of the user."""

    __slots__ = ()

    def cursor(self, cursor: Any = None) -> Any:
        self._guard.check_open()
        return (cursor or self._raw.cursorclass)(self)

    def query(self, sql: str | bytes | bytearray, unbuffered: bool = False) -> Any:
        with self.statement(sql):
            before = self._raw.server_status
            with _whole(self._raw):
                affected = self._raw.query(sql, unbuffered)
            self.adopt_unbuffered()
            self.check_inside(sql, before)
        return affected

    def next_result(self, unbuffered: bool = False) -> Any:
        self._guard.check_open()
        try:
            with _whole(self._raw):
                affected = self._raw.next_result(unbuffered)
        except BaseException as error:
            self._guard.failed(error)
            raise
        self.adopt_unbuffered()
        return affected

    def _read_packet(self, *arguments: Any) -> Any:
        try:
            with _whole(self._raw):
                return self._raw._read_packet(*arguments)
        except BaseException as error:
            self._guard.failed(error)
            raise


class PymysqlSession(Session):
    """See :class:`nodoubt.nodes.dialect.Session`."""

    __slots__ = ("_raw", "handle", "token")

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.token = ""
        self.handle = ""

    async def command(self, sql: str) -> str:
        self._run(sql)
        return str(self._raw.affected_rows())

    async def query(self, sql: str) -> Sequence[Row]:
        return [tuple(row) for row in self._run(sql)]

    def _run(self, sql: str) -> Sequence[Row]:
        """Send a text and read all of its answers, as only the last says that all before it succeeded; the last rows."""
        raw = self._raw
        try:
            with _whole(raw):
                if raw._result is not None and raw._result.unbuffered_active:
                    raw._result._finish_unbuffered_query()
                raw.query(sql)
                rows = raw._result.rows
                while raw._result.has_next:
                    raw.next_result()
                    rows = raw._result.rows or rows
        except Exception as error:
            failure = _understand(error)
            if isinstance(failure, ConnectionLost):
                self.abandon()
            raise failure from error
        return rows or ()

    def bind(self, guard: Guard) -> PymysqlConnection:
        return PymysqlConnection(self._raw, guard)

    def unbind(self) -> None:
        # After a clean end nothing is left to read; after any other the connection is given up, and PyMySQL must not
        # try to read the rest when it collects the result.
        if self._raw._result is not None:
            self._raw._result.unbuffered_active = False

    def abandon(self) -> None:
        _cut(self._raw)

    async def close(self) -> None:
        with contextlib.suppress(pymysql.err.Error, OSError):
            self._raw.close()


def _cut(raw: Any) -> None:
    # Only shut down: closing while another thread reads would wait for it. Collecting the object closes it.
    with contextlib.suppress(OSError):
        if (sock := raw._sock) is not None:
            # Not the method of ssl.SSLSocket, which takes the encryption away from under the reader.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


_whole = partial(whole, cut=_cut, answers=pymysql.err.MySQLError)


def _understand(error: Exception) -> StatementFailed | ConnectionLost:
    return understand(error, from_driver=isinstance(error, pymysql.err.MySQLError))


@cache
def _unverified() -> ssl.SSLContext:
    """What PyMySQL takes for a server that may offer encryption where nobody asked for it: then nothing is verified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _RawConnection(pymysql.connections.Connection):
    """PyMySQL's own, which would read all certificate authorities anew for each connection, and then ask none: 40 ms."""

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:
        context: ssl.SSLContext = super()._create_ssl_ctx(sslp) if sslp else _unverified()  # type: ignore[misc]
        return context


class PymysqlDriver:
    """See :class:`nodoubt.nodes.dialect.Driver`."""

    async def connect(self, settings: NodeSettings) -> PymysqlSession:
        wanted = options(settings)
        wanted["client_flag"] = wanted.get("client_flag", 0) | MULTI_STATEMENTS
        read_timeout_s = wanted.pop("read_timeout", None)
        try:
            # The greeting of a server that hangs must not be waited for longer than its port.
            raw: Any = _RawConnection(**wanted, read_timeout=settings.connect_timeout_s)
        except (pymysql.err.MySQLError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise refuse_login(error, from_driver=isinstance(error, pymysql.err.MySQLError)) from error
        raw._read_timeout = read_timeout_s
        return PymysqlSession(raw)
