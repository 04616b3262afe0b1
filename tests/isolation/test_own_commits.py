"""What a caller was told is committed, its next look shows, or fails: also where a branch could not be committed yet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Literal

import apsw
import pytest

from nodoubt import AsyncTransactionManager, NodeUnavailable, Outcome
from tests.conftest import DatabaseFactory, ServerName
from tests.isolation.gates import Gates
from tests.isolation.notation import NODES, SETUP
from tests.isolation.runner import DOMAIN, ask, furnish

Kind = ServerName | Literal["sqlite"]
X, Y = NODES[:2]
VALUE = "SELECT v FROM item WHERE k = 1"


def manager(urls: dict[str, str]) -> AsyncTransactionManager:
    """Nobody settles in the background: the next look must."""
    nodes = {name: {"url": url, "lock_timeout_s": 0.2} for name, url in urls.items()}
    return AsyncTransactionManager.open(nodes, domain=DOMAIN, settle=False)


@contextmanager
def refusing(request: pytest.FixtureRequest, kind: Kind, url: str) -> Iterator[None]:
    """The node serves nobody: its server is killed, or somebody else keeps the file's write lock."""
    if kind == "sqlite":
        with closing(apsw.Connection(url.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
    else:
        server = request.getfixturevalue(kind)
        server.kill()
        yield
        server.restart()


async def look(tm: AsyncTransactionManager, how: str) -> list[Any]:
    """The row on both nodes."""
    if how.startswith("snapshot"):
        async with tm.snapshot(X, Y) as view:
            return [await ask(await view.on(node), VALUE) for node in (X, Y)]
    async with tm.transaction() as tx:
        return [await ask(await tx.on(node, read_only=how == "read-only"), VALUE) for node in (X, Y)]


@pytest.mark.parametrize("how", ["read-only", "writing", "snapshot", "snapshot of another process"])
@pytest.mark.parametrize("kind", ["postgresql", "mariadb", "sqlite"])
async def test_the_next_look_shows_what_was_told_or_fails(
    request: pytest.FixtureRequest, database: DatabaseFactory, kind: Kind, how: str
) -> None:
    urls = {X: database("sqlite"), Y: database(kind)}
    await furnish(urls)
    async with manager(urls) as tm, manager(urls) as other:
        gates = Gates(tm.engine.nodes)
        tx = tm.transaction(home=X)
        gate = gates.shut(tx.gid, Y)

        async def write() -> None:
            async with tx:
                for node in urls:
                    for sql in (*SETUP, "UPDATE item SET v = 11 WHERE k = 1"):
                        await ask(await tx.on(node), sql)

        writing = asyncio.create_task(write())
        await gate.reached.wait()
        tm.engine.live[tx.gid].sever()
        looking = other if how.endswith("process") else tm
        with refusing(request, kind, urls[Y]):
            gate.open.set()
            await writing
            assert tx.outcome == Outcome(state="committed", pending=(Y,))
            with pytest.raises(NodeUnavailable):
                await look(looking, how)
        if kind == "sqlite" and looking is other:
            # The gate of a file is not closed over a branch in doubt; whoever settles is called, which here is nobody.
            with pytest.raises(NodeUnavailable, match="must be settled first"):
                await look(looking, how)
            await looking.settle()
        assert await look(looking, how) == [[(11,)], [(11,)]]
