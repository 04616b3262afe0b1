"""A deadlock between branches that no server sees: what ends it, and that the work is then done all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Unpack

import pytest

from nodoubt import AsyncTransaction, AsyncTransactionManager
from nodoubt.engine.request import Wishes
from tests.conftest import DatabaseFactory, ServerName
from tests.isolation.notation import SETUP
from tests.isolation.runner import DOMAIN, ask, furnish

Kind = ServerName | Literal["sqlite"]
#: What makes a wait end, as the configuration of a node has it.
LIMITS: dict[str, dict[str, Any]] = {
    "postgresql": {"url": "?options=-c%20lock_timeout%3D300"},
    "mariadb": {"options": {"init_command": "SET SESSION innodb_lock_wait_timeout = 1"}},
    "sqlite": {"acquire_timeout_s": 0.3},
}
#: What makes it end for transactions of a level that spans nodes.
LOCK_WAIT_S = 0.3
ATTEMPTS_MAX = 10
SERVERS: tuple[Kind, ...] = ("postgresql", "mariadb", "sqlite")


@pytest.mark.parametrize("server", SERVERS)
async def test_a_deadlock_ends_by_the_nodes_own_limit(database: DatabaseFactory, server: Kind) -> None:
    await both_do_their_work(database, server, limits=LIMITS[server])


@pytest.mark.parametrize("server", SERVERS)
async def test_a_deadlock_ends_by_the_transactions_time_out(database: DatabaseFactory, server: Kind) -> None:
    await both_do_their_work(database, server, timeout=1)


@pytest.mark.parametrize("server", SERVERS)
async def test_a_deadlock_of_serializable_transactions_ends_by_their_limit(
    database: DatabaseFactory, server: Kind
) -> None:
    """Of locks on rows, on the whole domain (PostgreSQL) or on files."""
    await both_do_their_work(database, server, isolation="serializable")


@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
async def test_a_deadlock_of_snapshot_transactions_ends_by_their_limit(
    database: DatabaseFactory, server: ServerName
) -> None:
    """SQLite has none: both write locks are taken at begin, in one order."""
    await both_do_their_work(database, server, isolation="snapshot", nodes=("x", "y"))


async def both_do_their_work(
    database: DatabaseFactory,
    server: Kind,
    *,
    timeout: float = 60,
    limits: Mapping[str, Any] = MappingProxyType({}),
    **wishes: Unpack[Wishes],
) -> None:
    """Two transactions hold one node each and ask for the other; both get through in the end, by `tm.run` alone."""
    urls = {node: database(server) for node in ("x", "y")}
    await furnish(urls)
    nodes = {node: {**limits, "url": url + limits.get("url", "")} for node, url in urls.items()}
    both_hold = asyncio.Barrier(2)
    tries: list[str] = []

    async def add(first: str, second: str) -> None:
        """Add 1 on both nodes. In its first attempt each holds one of them before it asks for the other."""
        mine: list[str] = []

        async def work(tx: AsyncTransaction) -> None:
            mine.append(tx.gid)
            for node in (first, second):
                await ask(await tx.on(node), "UPDATE item SET v = v + 1 WHERE k = 1")
                if len(mine) == 1 and node == first:
                    await both_hold.wait()

        await tm.run(work, attempts=ATTEMPTS_MAX, timeout=timeout, **wishes)
        tries.extend(mine)

    async with AsyncTransactionManager.open(nodes, domain=DOMAIN, settle=False, lock_wait_s=LOCK_WAIT_S) as tm:
        async with tm.transaction() as tx:
            for node in nodes:
                for sql in SETUP:
                    await ask(await tx.on(node), sql)
        await asyncio.gather(add("x", "y"), add("y", "x"))
        async with tm.transaction() as tx:
            for node in nodes:
                assert await ask(await tx.on(node), "SELECT v FROM item WHERE k = 1") == [(12,)]
    assert 2 < len(tries) <= 2 * ATTEMPTS_MAX
