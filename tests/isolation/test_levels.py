"""What a branch gets: its node's own level, as a user set it, or what a level that spans nodes needs; by the public names."""

from __future__ import annotations

from typing import Any, cast

import pymysql
import pytest

from nodoubt import AsyncTransactionManager, ConfigError, GuardError, Snapshot, Transaction, TransactionManager
from nodoubt.engine.request import Level, Wishes
from tests.conftest import DatabaseFactory
from tests.crash.harness import query
from tests.isolation.grounds import GROUNDS, RC, RR, SER, SI, Ground
from tests.isolation.notation import NODES
from tests.isolation.runner import DOMAIN, ask, furnish, open_manager

MIXED = [ground for ground in GROUNDS["PostgreSQL + MariaDB"] if ground.levels]


@pytest.fixture
async def urls(database: DatabaseFactory) -> dict[str, str]:
    """Nodes on PostgreSQL and MariaDB in turn."""
    urls = {"x": database("postgresql"), "y": database("mariadb")}
    await furnish(urls)
    for url in urls.values():
        query(url, "INSERT INTO item VALUES (1, 10)")
    return urls


@pytest.mark.parametrize("read_only", [False, True])
async def test_the_configuration_sets_the_level_of_every_branch(urls: dict[str, str], read_only: bool) -> None:
    for ground in MIXED:
        async with open_manager(ground, urls) as tm, tm.transaction() as tx:
            for node, url in urls.items():
                level = ground.levels[ground.server(node)]
                found = await level_of(await tx.on(node, read_only=read_only), url)
                assert found == ((RR, 1) if level == SI else (level, 0))


@pytest.mark.parametrize("ground", MIXED, ids=lambda ground: ground.level)
async def test_a_level_that_spans_nodes_gives_its_branches_what_it_needs_whatever_nodes_are_set_to(
    urls: dict[str, str], ground: Ground
) -> None:
    """And those that come after it on the same sessions have their own again."""
    async with open_manager(ground, urls) as tm:
        own = await _levels(tm, urls, {})
        ((_, refuses),) = own[1:]
        serializable = [(RC, 0), (SER, refuses)]
        wishes: list[tuple[Wishes, list[tuple[str, int]]]] = [
            ({"isolation": "snapshot"}, [(RR, 0), (RR, 1)]),
            ({"isolation": "snapshot", "nodes": ["x"], "reads": ["y"]}, [(RR, 0), (RR, 1)]),
            ({"isolation": "serializable"}, serializable),
            ({"isolation": "serializable", "nodes": ["y"], "reads": ["x"]}, serializable),
        ]
        for asked, expected in wishes:
            assert await _levels(tm, urls, asked) == expected
            assert await _levels(tm, urls, {}) == own


async def _levels(tm: AsyncTransactionManager, urls: dict[str, str], wishes: Wishes) -> list[tuple[str, int]]:
    """The level that each node's branch has in a new transaction."""
    async with tm.transaction(**wishes) as tx:
        branches = [(node, await tx.on(node, read_only=node in wishes.get("reads", ()))) for node in NODES[:2]]
        return [await level_of(branch, urls[node]) for node, branch in branches]


async def level_of(branch: Any, url: str) -> tuple[str, int]:
    """The level of a branch, and whether a write over what its snapshot does not show would be refused.

    MariaDB does not tell which level was set for one transaction, so there it is seen by what a write does meanwhile.
    """
    if url.startswith("postgresql"):
        ((level,),) = await ask(branch, "SELECT upper(current_setting('transaction_isolation'))")
        return level, 0
    ((refuses, before),) = await ask(branch, "SELECT @@innodb_snapshot_isolation, (SELECT v FROM item WHERE k = 1)")
    try:
        query(url, "SET STATEMENT innodb_lock_wait_timeout = 0 FOR UPDATE item SET v = v + 1 WHERE k = 1")
    except pymysql.OperationalError:
        return SER, refuses
    ((after,),) = await ask(branch, "SELECT v FROM item WHERE k = 1")
    return RR if after == before else RC, refuses


def test_threads_get_the_same(urls: dict[str, str]) -> None:
    nodes = {node: {"url": url} for node, url in urls.items()}
    with TransactionManager.open(nodes, domain=DOMAIN, settle=False) as tm:

        def seen(transaction: Transaction | Snapshot) -> set[tuple[int]]:
            found: set[tuple[int]] = set()
            for node in urls:
                with transaction.on(node).cursor() as cursor:
                    cursor.execute("SELECT count(*) FROM item")
                    found |= set(cursor.fetchall())
            return found

        with tm.snapshot() as before:
            with tm.transaction(isolation="snapshot") as tx:
                for node in urls:
                    with tx.on(node).cursor() as cursor:
                        cursor.execute("DELETE FROM item")
            with tm.snapshot("x", "y") as after, tm.transaction(isolation="serializable") as now:
                assert (seen(before), seen(after), seen(now)) == ({(1,)}, {(0,)}, {(0,)})


async def test_one_snapshot_is_read_by_several_connections_on_postgresql(urls: dict[str, str]) -> None:
    async with open_manager(MIXED[0], urls) as tm, tm.snapshot() as view:
        async with tm.transaction() as tx:
            await ask(await tx.on("x"), "DELETE FROM item")
        both = [await view.on("x"), await view.another("x")]
        assert both[0] is not both[1]
        assert [await ask(connection, "SELECT count(*) FROM item") for connection in both] == [[(1,)], [(1,)]]
        with pytest.raises(ConfigError, match="several connections"):
            await view.another("y")


async def test_what_a_level_cannot_do_is_refused(urls: dict[str, str]) -> None:
    """Nothing is weakened: a view is not written to, and shows no node that was not opened with it."""
    async with open_manager(MIXED[0], urls) as tm:
        async with tm.snapshot("x") as view:
            with pytest.raises(GuardError, match="not in the snapshot"):
                await view.on("y")
            with pytest.raises(Exception, match="read-only transaction"):
                await ask(await view.on("x"), "INSERT INTO item VALUES (1, 10)")
        with pytest.raises(ConfigError, match="keys="):
            tm.transaction(isolation="snapshot", keys=["a"])
        with pytest.raises(ConfigError, match="nodes= and reads="):
            tm.transaction(nodes=["x"])
        with pytest.raises(ConfigError, match="did you mean 'snapshot'"):
            tm.engine.begin(isolation=cast(Level, "snapshots"))


async def test_a_block_sets_its_own_level_on_postgresql(urls: dict[str, str]) -> None:
    async with open_manager(MIXED[0], urls) as tm, tm.transaction() as tx:
        connection = await tx.on("x")
        await ask(connection, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        assert await level_of(connection, urls["x"]) == (SER, 0)


async def test_a_block_cannot_set_its_own_level_on_mariadb(urls: dict[str, str]) -> None:
    """The branch is open when the block gets it, and the setting for the session comes too late for it."""
    async with open_manager(MIXED[0], urls) as tm:
        tx = tm.transaction()
        with pytest.raises(pymysql.MySQLError, match="1568"):
            async with tx:
                await ask(await tx.on("y"), "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        assert tx.outcome.state == "aborted"
