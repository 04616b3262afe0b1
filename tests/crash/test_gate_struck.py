"""The network loses, stalls or delays what closes a gate or opens it again.

Who opened a snapshot cannot know whether the gate was closed all the time, so it is refused, and may be opened again. All others
wait no longer than the server lets the holder idle.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from nodoubt import AsyncTransactionManager
from nodoubt.demo.bank import read_rows
from nodoubt.errors import NodeUnavailable
from nodoubt.nodes.contract import GATE_S_MAX
from nodoubt.testing.proxy import Proxy
from nodoubt.testing.proxy_faults import Arrives, Fault, Schedule, Statement, Then
from tests.conftest import DatabaseFactory, ServerName
from tests.crash.harness import install
from tests.crash.victim import DOMAIN

CLOSING = [(Arrives.ALL, Then.CUT), (Arrives.ALL, Then.STALL), (Arrives.HALF, Then.STALL)]
OPENING = [(Arrives.ALL, Then.CUT), (Arrives.NOTHING, Then.STALL), (Arrives.NOTHING, Then.DELAY)]
#: PostgreSQL's gate is opened by a bare COMMIT, the first of an opener's sessions.
STRUCK = [
    *((server, Statement.CLOSE_GATE, *shape) for server in ("postgresql", "mariadb") for shape in CLOSING),
    *(("postgresql", Statement.COMMIT, *shape) for shape in OPENING),
    *(("mariadb", Statement.OPEN_GATE, *shape) for shape in OPENING),
]
#: Far beyond the server's bound: on a loaded machine all takes longer. Without a bound the transaction would not end at all.
PATIENCE_S = 20 * GATE_S_MAX


async def look(tm: AsyncTransactionManager) -> list[list[int]]:
    """What a view shows of each node."""
    async with tm.snapshot() as view:
        shown = [
            await read_rows(node.kind, await view.on(name), "SELECT id FROM work") for name, node in tm.nodes.items()
        ]
    return [sorted(number for (number,) in rows) for rows in shown]


async def write(tm: AsyncTransactionManager, number: int) -> None:
    """A row on every node."""
    async with asyncio.timeout(PATIENCE_S), tm.transaction(home="struck", timeout=PATIENCE_S) as tx:
        for name, node in tm.nodes.items():
            await read_rows(node.kind, await tx.on(name), f"INSERT INTO work VALUES ({number})")


@pytest.mark.parametrize(("server", "statement", "arrives", "then"), STRUCK)
async def test_an_opener_is_refused_and_the_others_go_on(
    server: ServerName, statement: Statement, arrives: Arrives, then: Then, database: DatabaseFactory
) -> None:
    nodes = {"struck": database(server), "other": database("postgresql2")}
    await install(nodes)
    fault = Fault(statement=statement, arrives=arrives, then=then)
    with Proxy(nodes["struck"], Schedule((fault,))) as proxy:
        seen = {"struck": {"url": proxy.url, "connect_timeout_s": 2.0}, "other": nodes["other"]}
        async with (
            AsyncTransactionManager.open(seen, domain=DOMAIN, settle=False) as opener,
            AsyncTransactionManager.open(dict(nodes), domain=DOMAIN, settle=False) as others,
        ):
            # However still the nodes stand.
            for node in opener.nodes.values():
                node.capabilities = replace(node.capabilities, tells_stillness=False)
            opening = asyncio.create_task(look(opener))
            await asyncio.to_thread(proxy.wait)
            await write(others, 1)
            proxy.release()
            with pytest.raises(NodeUnavailable) as refused:
                await opening
            assert refused.value.retryable
            assert await look(opener) == [[1], [1]]
            await write(others, 2)
            assert await look(opener) == [[1, 2], [1, 2]]
