"""A server dies in the midst of many transactions, and its synchronous standby takes over, with all of its promises."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Mapping

import asyncpg
import psycopg
import pytest

from nodoubt import AsyncTransactionManager, NodeUnavailable, NodoubtError
from nodoubt.testing.servers import PostgreSQLServer
from tests.conftest import DatabaseFactory, in_memory
from tests.crash.harness import check, install, purge, settle
from tests.crash.victim import DOMAIN
from tests.standby import promote, synchronous_standby

CLIENTS = 8
#: The primary dies when so many have ended; each client then ends so many more behind the fail-over.
BEFORE, AFTER = 150, 5
#: With these a block may end.
ENDS = (NodoubtError, psycopg.Error, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("home", ["kept", "moved"])
def test_a_synchronous_standby_keeps_all_promises(
    database: DatabaseFactory, postgresql: PostgreSQLServer, home: str, driver: str
) -> None:
    with PostgreSQLServer.start(within=in_memory()) as primary, synchronous_standby(primary) as standby:
        both = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        nodes = {"kept": database("postgresql"), "moved": f"postgresql+{driver}://postgres@{both}/postgres"}
        nodes["moved"] += "?target_session_attrs=read-write"
        plain = nodes | {"moved": standby.url}
        asyncio.run(install(nodes | {"moved": primary.url}))
        told = asyncio.run(_work(nodes, home, primary, standby))
        asyncio.run(settle(nodes))
        asyncio.run(purge(nodes))
        ends = Counter(
            check(plain, list(plain), row, gid, None if state == "unknown" else state)
            for row, (gid, state) in enumerate(told)
        )
    assert ends["committed"] >= BEFORE + CLIENTS * AFTER


async def _work(
    nodes: Mapping[str, str], home: str, primary: PostgreSQLServer, standby: PostgreSQLServer
) -> list[tuple[str, str]]:
    """Many clients at once, over the fail-over; the gid of each transaction, by its row, and what its caller was told."""
    told: dict[int, tuple[str, str]] = {}
    rows = itertools.count()
    enough, is_over = asyncio.Event(), asyncio.Event()

    async def client(tm: AsyncTransactionManager) -> None:
        left = AFTER
        while left:
            row, tx = next(rows), tm.transaction(home=home, timeout=5)
            was_over = is_over.is_set()
            try:
                async with tx:
                    for name in nodes:
                        await (await tx.on(name)).execute(f"INSERT INTO work VALUES ({row})")
            except ENDS as error:
                if isinstance(error, NodeUnavailable):
                    await is_over.wait()
            told[row] = tx.gid, tx.outcome.state
            left -= was_over and tx.outcome.state == "committed"
            if len(told) >= BEFORE:
                enough.set()

    async def fail_over() -> None:
        await enough.wait()
        await asyncio.to_thread(primary.kill)
        await asyncio.to_thread(promote, standby)
        is_over.set()

    async with AsyncTransactionManager.open(dict(nodes), domain=DOMAIN) as tm:
        await asyncio.gather(fail_over(), *(client(tm) for _ in range(CLIENTS)))
    return [told[row] for row in range(len(told))]
