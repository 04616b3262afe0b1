"""A deadlock between branches that no server sees: what ends it, and that the work is then done all the same."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

from nodoubt import AsyncTransactionManager
from nodoubt.engine.asynchronous import AsyncTransaction
from tests.conftest import DatabaseFactory, ServerName
from tests.isolation.notation import SETUP
from tests.isolation.runner import DOMAIN, ask, furnish

#: What makes a wait end, as the configuration of a node has it.
LIMITS: dict[str, dict[str, Any]] = {
    "postgresql": {"url": "?options=-c%20lock_timeout%3D300"},
    "mariadb": {"options": {"init_command": "SET SESSION innodb_lock_wait_timeout = 1"}},
    "sqlite": {"acquire_timeout_s": 0.3},
}
ATTEMPTS_MAX = 10


@pytest.mark.parametrize("server", ["postgresql", "mariadb", "sqlite"])
@pytest.mark.parametrize("by", ["the node's own limit", "the transaction's time-out"])
async def test_a_deadlock_ends_and_both_do_their_work(
    database: DatabaseFactory, server: ServerName | Literal["sqlite"], by: str
) -> None:
    urls = {node: database(server) for node in ("x", "y")}
    await furnish(urls)
    limits = LIMITS[server] if by == "the node's own limit" else {}
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

        await tm.run(work, attempts=ATTEMPTS_MAX, timeout=60 if limits else 1)
        tries.extend(mine)

    async with AsyncTransactionManager.open(nodes, domain=DOMAIN, settle=False) as tm:
        async with tm.transaction() as tx:
            for node in nodes:
                for sql in SETUP:
                    await ask(await tx.on(node), sql)
        await asyncio.gather(add("x", "y"), add("y", "x"))
        async with tm.transaction() as tx:
            for node in nodes:
                assert await ask(await tx.on(node), "SELECT v FROM item WHERE k = 1") == [(12,)]
    assert 2 < len(tries) <= 2 * ATTEMPTS_MAX
