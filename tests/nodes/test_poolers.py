"""PostgreSQL behind PgBouncer: in session mode it is as good as without, in the others it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from nodoubt.engine.worlds import AsyncWorld, ThreadWorld, run_now
from nodoubt.errors import ConfigError
from nodoubt.nodes.contract import Node
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.registry import make_node
from nodoubt.testing.conformance import Harness, NodeConformance
from nodoubt.testing.servers import PostgreSQLServer
from tests.conftest import DatabaseFactory
from tests.nodes.harnesses import AsyncpgHarness
from tests.pgbouncer import Mode, pooler

DRIVERS = ("postgresql+asyncpg", "postgresql+psycopg")
SHARED = "node 'here' is behind a pooler that gives sessions of the server to one connection after another"


class TestAsyncpgBehindPooler(NodeConformance):
    """PostgreSQL by asyncpg, behind a pooler in session mode."""

    @pytest.fixture
    def harness(self, database: DatabaseFactory, postgresql: PostgreSQLServer) -> Iterator[Harness]:
        harness = AsyncpgHarness(database("postgresql"), postgresql)
        with pooler(harness.url, "session") as harness.node_url:
            yield harness


@pytest.fixture
def url(database: DatabaseFactory) -> str:
    """A database with our tables."""
    url = database("postgresql")
    asyncio.run(_node(url).install())
    return url


def _node(url: str) -> Node:
    return make_node("here", "shop", NodeSettings(url=url), AsyncWorld(), asynchronous=True)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_a_pooler_that_shares_sessions_is_refused(url: str, mode: Mode, driver: str) -> None:
    with pooler(url, mode) as behind:
        node = _node(behind.replace("postgresql", driver, 1))
        for step in (node.open, node.install):
            with pytest.raises(ConfigError, match=SHARED) as caught:
                await step()
            assert "pool_mode = session" in caught.value.hint
        (finding,) = await node.inspect()
    assert (finding.check, finding.level, finding.text) == ("sessions", "error", SHARED)
    assert "pool_mode = session" in finding.fix


def test_threads_refuse_it_too(url: str) -> None:
    world = ThreadWorld()
    with pooler(url, "transaction") as behind:
        node = make_node("here", "shop", NodeSettings(url=behind), world, asynchronous=False)
        with pytest.raises(ConfigError, match=SHARED):
            run_now(node.open())
    world.close()


async def test_a_busy_pooler_is_refused(url: str) -> None:
    """There the session that was marked is taken by somebody else before anybody looks."""
    with pooler(url, "transaction") as behind:
        async with _at_work(behind, 4):
            for _ in range(20):
                with pytest.raises(ConfigError, match=SHARED):
                    await _node(behind.replace("postgresql", "postgresql+psycopg", 1)).open()


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_pooler_in_session_mode_is_taken(url: str, driver: str) -> None:
    with pooler(url, "session") as behind:
        node = _node(behind.replace("postgresql", driver, 1))
        await node.open()
        found = await node.inspect()
        await node.close()
    assert {finding.level for finding in found} == {"ok"}


@asynccontextmanager
async def _at_work(url: str, clients: int) -> AsyncIterator[None]:
    is_over = asyncio.Event()

    async def work() -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=None) as connection:
            while not is_over.is_set():
                await connection.execute("SELECT 1")

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(work())
        yield
        is_over.set()
