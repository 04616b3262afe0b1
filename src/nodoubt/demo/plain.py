"""Ordinary connections, without transactions of ours: for the audit, which must not believe nodoubt, and for ``--unprotected``.

Servers are reached through the same drivers as the nodes; SQLite through the standard library's module. Two copies of the SQLite
library in one process would drop each other's file locks: open these only while no SQLite node is open in the process.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol
from urllib.parse import unquote

from nodoubt.errors import ConfigError, NodeUnavailable
from nodoubt.nodes.dialect import NodeSettings, Row, Session
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.nodes.registry import make_driver

#: How long a plain SQLite connection waits for another writer.
LOCK_TIMEOUT_S = 10.0


class PlainSession(Protocol):
    """A connection that carries texts."""

    kind: str
    begin: str

    async def command(self, sql: str) -> None:
        """Run a statement. Raises NodeUnavailable for whatever goes wrong."""

    async def query(self, sql: str) -> Sequence[Row]:
        """Run a statement and fetch its rows. Raises NodeUnavailable for whatever goes wrong."""

    async def roll_back(self) -> None:
        """Leave the transaction, if there is one."""

    async def has_table(self, table: str) -> bool:
        """Whether such a table is where our statements would find it."""

    async def close(self) -> None:
        """End the connection."""


class ServerSession:
    """A plain connection to a server."""

    begin = "BEGIN"

    def __init__(self, node: str, kind: str, session: Session) -> None:
        self.kind = kind
        self._node = node
        self._session = session

    async def command(self, sql: str) -> None:
        try:
            await self._session.command(sql)
        except (ConnectionLost, StatementFailed) as error:
            raise NodeUnavailable(f"node {self._node!r}: {error}") from error

    async def query(self, sql: str) -> Sequence[Row]:
        try:
            return await self._session.query(sql)
        except (ConnectionLost, StatementFailed) as error:
            raise NodeUnavailable(f"node {self._node!r}: {error}") from error

    async def roll_back(self) -> None:
        # Outside a transaction this is no error on either server.
        await self.command("ROLLBACK")

    async def has_table(self, table: str) -> bool:
        schema = "current_schema()" if self.kind == "postgresql" else "database()"
        rows = await self.query(
            f"SELECT 1 FROM information_schema.tables WHERE table_schema = {schema} AND table_name = '{table}'"
        )
        return bool(rows)

    async def close(self) -> None:
        await self._session.close()


class FileSession:
    """A plain connection to a SQLite file. Its calls block, as SQLite does."""

    kind = "sqlite"
    begin = "BEGIN IMMEDIATE"

    def __init__(self, node: str, path: str) -> None:
        self._node = node
        try:
            self._raw = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
        except sqlite3.Error as error:
            raise NodeUnavailable(f"node {node!r}: {error}") from error

    async def command(self, sql: str) -> None:
        await self.query(sql)

    async def query(self, sql: str) -> Sequence[Row]:
        try:
            return self._raw.execute(sql).fetchall()
        except sqlite3.Error as error:
            raise NodeUnavailable(f"node {self._node!r}: {error}") from error

    async def roll_back(self) -> None:
        if self._raw.in_transaction:
            await self.command("ROLLBACK")

    async def has_table(self, table: str) -> bool:
        return bool(await self.query(f"SELECT 1 FROM sqlite_master WHERE name = '{table}'"))

    async def close(self) -> None:
        self._raw.close()


async def connect(node: str, settings: NodeSettings) -> PlainSession:
    """Open a plain connection to what a node's URL names. Raises ConfigError or NodeUnavailable."""
    if settings.url.startswith("sqlite:"):
        return FileSession(node, sqlite_path(settings.url))
    dialect, driver, settings = make_driver(node, settings, asynchronous=True)
    try:
        return ServerSession(node, dialect.kind, await driver.connect(settings))
    except (ConfigError, NodeUnavailable) as error:
        # Drivers don't know the node's name, and whoever gave several URLs wants to know which.
        raise type(error)(f"node {node!r}: {error.message}", hint=error.hint) from error


def sqlite_path(url: str) -> str:
    """The file that a SQLite URL names."""
    return unquote(url.partition("?")[0].removeprefix("sqlite:").removeprefix("//").removeprefix("/"))


@asynccontextmanager
async def connections(nodes: Mapping[str, NodeSettings]) -> AsyncIterator[dict[str, PlainSession]]:
    """A plain connection to each node, closed at the end of the block."""
    async with AsyncExitStack() as stack:
        sessions: dict[str, PlainSession] = {}
        for node, settings in nodes.items():
            sessions[node] = session = await connect(node, settings)
            stack.push_async_callback(session.close)
        yield sessions
