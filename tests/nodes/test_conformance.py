"""Every adapter of ours keeps the contract, on a real server of its own."""

from __future__ import annotations

import pytest

from nodoubt.testing.conformance import Harness, NodeConformance
from nodoubt.testing.servers import PostgreSQLServer
from tests.conftest import DatabaseFactory
from tests.nodes.harnesses import AsyncpgHarness, MemoryHarness


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
