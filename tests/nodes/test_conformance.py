"""Every adapter of ours keeps the contract, on a real server of its own."""

from __future__ import annotations

import pytest

from nodoubt.testing.conformance import Harness, NodeConformance
from nodoubt.testing.servers import MariaDBServer, PostgreSQLServer
from tests.conftest import DatabaseFactory
from tests.nodes.harnesses import (
    AiomysqlHarness,
    AsyncpgHarness,
    AsyncPsycopgHarness,
    MemoryHarness,
    PsycopgHarness,
    PymysqlHarness,
    SQLiteHarness,
)
from tests.tls import Authority


class TestMemory(NodeConformance):
    """The in-memory node."""

    @pytest.fixture
    def harness(self) -> Harness:
        return MemoryHarness()


class TestAsyncpg(NodeConformance):
    """PostgreSQL by asyncpg."""

    @pytest.fixture
    def harness(self, database: DatabaseFactory, postgresql: PostgreSQLServer) -> Harness:
        return AsyncpgHarness(database("postgresql"), postgresql)


class TestPsycopg(NodeConformance):
    """PostgreSQL by psycopg, blocking."""

    @pytest.fixture
    def harness(self, database: DatabaseFactory, postgresql: PostgreSQLServer) -> Harness:
        return PsycopgHarness(database("postgresql"), postgresql)


class TestAsyncpgEncrypted(NodeConformance):
    """PostgreSQL by asyncpg, on lines that are encrypted."""

    @pytest.fixture
    def harness(self, database: DatabaseFactory, postgresql_tls: PostgreSQLServer, authority: Authority) -> Harness:
        return AsyncpgHarness(authority.insist(database("postgresql_tls")), postgresql_tls)


class TestAsyncPsycopg(NodeConformance):
    """PostgreSQL by psycopg, suspending."""

    @pytest.fixture
    def harness(self, database: DatabaseFactory, postgresql: PostgreSQLServer) -> Harness:
        return AsyncPsycopgHarness(database("postgresql"), postgresql)


class TestAiomysql(NodeConformance):
    """MariaDB by aiomysql, on lines that are encrypted: those of the crash matrix and the anomalies are not."""

    @pytest.fixture
    def harness(self, database: DatabaseFactory, mariadb_log: MariaDBServer, authority: Authority) -> Harness:
        return AiomysqlHarness(authority.insist(database("mariadb_log")), mariadb_log)


class TestPymysql(NodeConformance):
    """MariaDB by PyMySQL."""

    @pytest.fixture
    def harness(self, database: DatabaseFactory, mariadb: MariaDBServer) -> Harness:
        return PymysqlHarness(database("mariadb"), mariadb)


class TestMariaDBLog(NodeConformance):
    """MariaDB with a binary log, by PyMySQL on lines that are encrypted."""

    @pytest.fixture
    def harness(self, database: DatabaseFactory, mariadb_log: MariaDBServer, authority: Authority) -> Harness:
        return PymysqlHarness(authority.insist(database("mariadb_log")), mariadb_log)


class TestSQLiteAsyncio(NodeConformance):
    """SQLite under asyncio."""

    @pytest.fixture
    def harness(self, database: DatabaseFactory) -> Harness:
        return SQLiteHarness(database("sqlite"), asynchronous=True)


class TestSQLiteThreads(NodeConformance):
    """SQLite in a world of threads."""

    @pytest.fixture
    def harness(self, database: DatabaseFactory) -> Harness:
        return SQLiteHarness(database("sqlite"), asynchronous=False)
