"""How each adapter's database is spoken to, for the conformance suite: the adapter's own SQL and nothing else."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import apsw
import psycopg

from nodoubt.engine.worlds import run_now
from nodoubt.errors import GuardError
from nodoubt.nodes.contract import Branch, Node
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.memory import MemoryDialect, MemoryNode, MemorySession
from nodoubt.nodes.memory_calls import Fate
from nodoubt.nodes.memory_database import MemoryDatabase
from nodoubt.nodes.memory_packets import DECISION
from nodoubt.nodes.registry import make_node
from nodoubt.nodes.sql_branch import SqlBranch
from nodoubt.nodes.sqlite import database_path
from nodoubt.testing.conformance import Harness
from nodoubt.testing.conformance.harness import DOMAIN
from nodoubt.testing.servers import Server
from tests import plain


class MemoryHarness(Harness):
    """A database in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.database = MemoryDatabase(self.world.now)

    def node(self, name: str = "here", domain: str = DOMAIN, **settings: Any) -> Node:
        return MemoryNode(name, domain, NodeSettings(url="", **settings), self.world, self.database, self.dialect())

    def dialect(self) -> MemoryDialect:
        return MemoryDialect()

    async def make_table(self) -> None:
        pass

    async def put(self, connection: Any, key: str, value: str) -> None:
        await connection.put("fact", key, value)

    async def get(self, connection: Any, key: str) -> str | None:
        value: str | None = await connection.get("fact", key)
        return value

    async def fail(self, connection: Any) -> None:
        await connection.insert("fact", "twice", "value")
        await connection.insert("fact", "twice", "value")

    async def savepoint(self, connection: Any, name: str) -> None:
        await connection.savepoint(name)

    async def rollback_to(self, connection: Any, name: str) -> None:
        await connection.rollback_to(name)

    async def commit(self, connection: Any) -> None:
        await connection.commit()

    async def hold_decision(self, connection: Any, gid: str) -> None:
        await connection.insert(DECISION, gid, ["committed", "{}", True, self.world.now(), ""])

    async def start_two(self, connection: Any) -> None:
        self.database.faults = lambda call: Fate.HELD
        self.world.later(0.05, self.database.deliver)
        try:
            await super().start_two(connection)
        finally:
            self.database.faults = lambda call: Fate.FINE

    async def pause(self) -> None:
        self.database.faults = lambda call: Fate.HELD

    async def resume(self) -> None:
        self.database.faults = lambda call: Fate.FINE
        self.database.deliver()

    async def run_ddl(self, text: str) -> None:
        session = MemorySession(self.database, self.world, NodeSettings(url=""))
        await session.command(text)
        await session.close()

    async def cut(self, branch: Branch) -> None:
        self.database.end(branch.connection.session_number)

    async def restart(self) -> None:
        self.database.stop()
        self.database.start()


class ServerHarness(Harness):
    """What database servers have in common: a URL, the node of the registry, a server that can crash."""

    #: Names the driver where the registry would choose another one.
    scheme = ""

    def __init__(self, url: str, server: Server) -> None:
        super().__init__()
        self.url = url
        self.node_url = url.replace(urlsplit(url).scheme, self.scheme or urlsplit(url).scheme, 1)
        self.server = server

    def node(self, name: str = "here", domain: str = DOMAIN, **settings: Any) -> Node:
        return make_node(
            name, domain, NodeSettings(url=self.node_url, **settings), self.world, asynchronous=self.asynchronous
        )

    async def restart(self) -> None:
        self.server.kill()
        self.server.restart()

    async def pause(self) -> None:
        self.server.pause()

    async def resume(self) -> None:
        self.server.resume()


class SqlHarness(ServerHarness):
    """SQL that all servers read alike; subclasses carry it on a connection of their driver."""

    #: A statement that lasts half a second.
    SLEEP = ""
    UPSERT = "INSERT INTO fact VALUES ('{key}', '{value}') ON CONFLICT (name) DO UPDATE SET value = '{value}'"
    HOLD: tuple[str, ...] = (
        "LOCK TABLE nodoubt.node IN ROW EXCLUSIVE MODE",
        "INSERT INTO nodoubt.decision (gid, decision, complete) VALUES ('{gid}', 'committed', true)",
    )

    async def execute(self, connection: Any, sql: str) -> list[Any]:
        """Run one statement as a user would and fetch its rows."""
        raise NotImplementedError

    async def put(self, connection: Any, key: str, value: str) -> None:
        await self.execute(connection, self.UPSERT.format(key=key, value=value))

    async def get(self, connection: Any, key: str) -> str | None:
        rows = await self.execute(connection, f"SELECT value FROM fact WHERE name = '{key}'")
        return str(rows[0][0]) if rows else None

    async def fail(self, connection: Any) -> None:
        for _ in range(2):
            await self.execute(connection, "INSERT INTO fact VALUES ('twice', 'value')")

    async def savepoint(self, connection: Any, name: str) -> None:
        await self.execute(connection, f"SAVEPOINT {name}")

    async def rollback_to(self, connection: Any, name: str) -> None:
        await self.execute(connection, f"ROLLBACK TO SAVEPOINT {name}")

    async def commit(self, connection: Any) -> None:
        await self.execute(connection, "COMMIT")

    async def hold_decision(self, connection: Any, gid: str) -> None:
        for statement in self.HOLD:
            await self.execute(connection, statement.format(gid=gid))


class PostgreSQLHarness(SqlHarness):
    """PostgreSQL; an administrator's connection makes tables and ends sessions."""

    SLEEP = "SELECT pg_sleep(0.5)"

    def _administer(self, sql: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as administrator:
            administrator.execute(sql.encode())

    async def make_table(self) -> None:
        self._administer("CREATE TABLE fact (name text PRIMARY KEY, value text)")

    async def run_ddl(self, text: str) -> None:
        self._administer(text)

    async def cut(self, branch: Branch) -> None:
        assert isinstance(branch, SqlBranch)
        assert branch._session is not None
        # Not by its connection: behind PREPARE there is no transaction for a statement to be in.
        pid = branch._session.handle.split()[0]
        self._administer(f"SELECT pg_terminate_backend({pid}, 5000)")


class AsyncpgHarness(PostgreSQLHarness):
    """PostgreSQL by asyncpg."""

    async def execute(self, connection: Any, sql: str) -> list[Any]:
        rows: list[Any] = await connection.fetch(sql)
        return rows


class AsyncPsycopgHarness(PostgreSQLHarness):
    """PostgreSQL by psycopg, suspending."""

    scheme = "postgresql+psycopg"

    async def execute(self, connection: Any, sql: str) -> list[Any]:
        cursor = await connection.execute(sql)
        return await cursor.fetchall() if cursor.description else []


class BlockingHarness(SqlHarness):
    """Drivers that block: two operations at once come from two threads."""

    asynchronous = False

    async def start_two(self, connection: Any) -> None:
        refused: list[GuardError] = []

        def last() -> None:
            try:
                run_now(self.execute(connection, self.SLEEP))
            except GuardError as error:
                refused.append(error)

        thread = threading.Thread(target=last)
        thread.start()
        while thread.is_alive() and not refused:
            try:
                await self.get(connection, "key")
            except GuardError as error:
                refused.append(error)
        thread.join()
        if refused:
            raise refused[0]


class PsycopgHarness(BlockingHarness, PostgreSQLHarness):
    """PostgreSQL by psycopg, blocking."""

    async def execute(self, connection: Any, sql: str) -> list[Any]:
        cursor = connection.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


class MariaDBHarness(SqlHarness):
    """MariaDB; an administrator's connection makes tables and ends sessions."""

    SLEEP = "SELECT SLEEP(0.5)"
    UPSERT = "REPLACE INTO fact VALUES ('{key}', '{value}')"
    HOLD = (
        "SELECT 1 FROM nodoubt_node WHERE 0",
        "INSERT INTO nodoubt_decision (gid, decision, participants, complete, reason)"
        " VALUES ('{gid}', 'committed', '{{}}', 1, '')",
    )

    def _administer(self, *statements: str) -> None:
        with closing(plain.mariadb(self.url)) as administrator, administrator.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    async def make_table(self) -> None:
        self._administer("CREATE TABLE fact (name VARCHAR(60) PRIMARY KEY, value TEXT) ENGINE=InnoDB")

    async def run_ddl(self, text: str) -> None:
        self._administer(*[statement for statement in text.split(";\n") if statement.strip()])

    async def cut(self, branch: Branch) -> None:
        ((session,),) = await self.execute(branch.connection, "SELECT CONNECTION_ID()")
        self._administer(f"KILL {session}")


class AiomysqlHarness(MariaDBHarness):
    """MariaDB by aiomysql."""

    async def execute(self, connection: Any, sql: str) -> list[Any]:
        async with connection.cursor() as cursor:
            await cursor.execute(sql)
            return list(await cursor.fetchall()) if cursor.description else []


class PymysqlHarness(BlockingHarness, MariaDBHarness):
    """MariaDB by PyMySQL."""

    async def execute(self, connection: Any, sql: str) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []


class SQLiteHarness(BlockingHarness):
    """SQLite, in either world: its statements never suspend, and it has no server."""

    UPSERT = "INSERT INTO fact VALUES ('{key}', '{value}') ON CONFLICT (name) DO UPDATE SET value = '{value}'"
    #: The one write lock, which a branch holds from its beginning, keeps all keys; our tables are closed to users.
    HOLD = ("SELECT 1",)
    #: Takes a while, and calls back into nothing.
    SLEEP = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000) SELECT count(*) FROM n"

    def __init__(self, url: str, *, asynchronous: bool) -> None:
        self.asynchronous = asynchronous
        Harness.__init__(self)
        self.url = self.node_url = url

    async def execute(self, connection: Any, sql: str) -> list[Any]:
        return list(connection.execute(sql).fetchall())

    async def restart(self) -> None:
        return

    async def pause(self) -> None:
        return

    async def resume(self) -> None:
        return

    async def make_table(self) -> None:
        self._administer("CREATE TABLE fact (name TEXT PRIMARY KEY NOT NULL, value TEXT)")

    async def run_ddl(self, text: str) -> None:
        self._administer(text)

    def _administer(self, sql: str) -> None:
        with closing(apsw.Connection(str(database_path(self.url)))) as connection:
            connection.execute(sql).fetchall()  # apsw goes on only as rows are fetched
