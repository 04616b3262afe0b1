"""Bare connections, one per client and node, without anything of nodoubt: the means of the peers and of the checks.

``update`` is also how the work is done on the connection that nodoubt hands out, so that all contestants send the same
statement by the same driver.
"""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from nodoubt.bench.work import ACCOUNTS, TABLE
from nodoubt.errors import ConfigError


class Line(Protocol):
    """A connection to one node."""

    @property
    def connection(self) -> Any:
        """The driver's own."""

    async def run(self, sql: str) -> None:
        """Send a text."""

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Send one statement and fetch its rows."""

    async def begin(self, name: str | None = None) -> None:
        """Begin a transaction; with a name, one that can be prepared under it."""

    async def commit(self) -> None:
        """One-phase commit."""

    async def prepare(self, name: str) -> None:
        """First phase."""

    async def commit_prepared(self, name: str) -> None:
        """Second phase."""

    async def close(self) -> None:
        """Say goodbye."""


class Kind(Protocol):
    """A kind of database."""

    async def connect(self, url: str) -> Line:
        """Open a line."""

    async def update(self, connection: Any, key: int, amount: int) -> None:
        """Add to an account."""

    def make_table(self) -> tuple[str, ...]:
        """The statements that make the table of accounts."""

    version: str


class PostgreSQLLine:
    """By asyncpg."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def run(self, sql: str) -> None:
        await self.connection.execute(sql)

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(record) for record in await self.connection.fetch(sql)]

    async def begin(self, name: str | None = None) -> None:
        await self.connection.execute("BEGIN")

    async def commit(self) -> None:
        await self.connection.execute("COMMIT")

    async def prepare(self, name: str) -> None:
        await self.connection.execute(f"PREPARE TRANSACTION '{name}'")

    async def commit_prepared(self, name: str) -> None:
        await self.connection.execute(f"COMMIT PREPARED '{name}'")

    async def close(self) -> None:
        await self.connection.close()


class PostgreSQLKind:
    """See :class:`Kind`."""

    version = "SELECT 'PostgreSQL ' || current_setting('server_version')"

    async def connect(self, url: str) -> PostgreSQLLine:
        import asyncpg

        return PostgreSQLLine(await asyncpg.connect(url))

    async def update(self, connection: Any, key: int, amount: int) -> None:
        await connection.execute(f"UPDATE {TABLE} SET balance = balance + $1 WHERE id = $2", amount, key)

    def make_table(self) -> tuple[str, ...]:
        return (
            f"DROP TABLE IF EXISTS {TABLE}",
            # Room on each page keeps updates there (HOT), for all contestants alike.
            f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50)",
            f"INSERT INTO {TABLE} SELECT id, 0 FROM generate_series(0, {ACCOUNTS - 1}) AS id",
            f"VACUUM (FREEZE, ANALYZE) {TABLE}",
        )


class MariaDBLine:
    """By aiomysql."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def run(self, sql: str) -> None:
        async with self.connection.cursor() as cursor:
            await cursor.execute(sql)
            while await cursor.nextset():
                pass

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        async with self.connection.cursor() as cursor:
            await cursor.execute(sql)
            return list(await cursor.fetchall())

    async def begin(self, name: str | None = None) -> None:
        await self.run("BEGIN" if name is None else f"XA START '{name}'")

    async def commit(self) -> None:
        await self.run("COMMIT")

    async def prepare(self, name: str) -> None:
        await self.run(f"XA END '{name}';XA PREPARE '{name}'")

    async def commit_prepared(self, name: str) -> None:
        await self.run(f"XA COMMIT '{name}'")

    async def close(self) -> None:
        await self.connection.ensure_closed()


class MariaDBKind:
    """See :class:`Kind`."""

    version = "SELECT CONCAT('MariaDB ', VERSION())"

    async def connect(self, url: str) -> MariaDBLine:
        import aiomysql

        parts = urlsplit(url)
        connection = await aiomysql.connect(
            host=parts.hostname,
            port=parts.port or 3306,
            user=unquote(parts.username or "root"),
            password=unquote(parts.password or ""),
            db=parts.path.lstrip("/"),
            autocommit=True,
        )
        return MariaDBLine(connection)

    async def update(self, connection: Any, key: int, amount: int) -> None:
        async with connection.cursor() as cursor:
            await cursor.execute(f"UPDATE {TABLE} SET balance = balance + %s WHERE id = %s", (amount, key))

    def make_table(self) -> tuple[str, ...]:
        return (
            # aiomysql turns the note of DROP TABLE IF EXISTS into a warning.
            f"CREATE OR REPLACE TABLE {TABLE} (id bigint PRIMARY KEY, balance bigint NOT NULL) ENGINE = InnoDB",
            f"INSERT INTO {TABLE} SELECT seq, 0 FROM seq_0_to_{ACCOUNTS - 1}",
        )


KINDS: dict[str, Kind] = {"postgresql": PostgreSQLKind(), "mariadb": MariaDBKind()}
_SAME = {"postgres": "postgresql", "mysql": "mariadb"}


def kind_of(url: str) -> str:
    """The kind of database that a URL names; ConfigError for one that the bench does not know."""
    scheme = urlsplit(url).scheme.partition("+")[0]
    kind = _SAME.get(scheme, scheme)
    if kind not in KINDS:
        raise ConfigError(f"the bench does not know {scheme!r} databases", hint=f"known are {', '.join(KINDS)}")
    return kind
