"""The adapter of MariaDB keeps the contract on MySQL, too."""

from __future__ import annotations

import pytest

from nodoubt.testing.conformance import Harness, NodeConformance
from nodoubt.testing.servers import MySQLServer
from tests.conftest import DatabaseFactory
from tests.nodes.harnesses import AiomysqlHarness, PymysqlHarness


class TestAiomysql(NodeConformance):
    """MySQL by aiomysql."""

    @pytest.fixture
    def harness(self, database: DatabaseFactory, mysql: MySQLServer) -> Harness:
        return AiomysqlHarness(database("mysql"), mysql)


class TestPymysql(NodeConformance):
    """MySQL by PyMySQL."""

    @pytest.fixture
    def harness(self, database: DatabaseFactory, mysql: MySQLServer) -> Harness:
        return PymysqlHarness(database("mysql"), mysql)
