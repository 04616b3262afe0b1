"""How a user sets a node's own level today, by the public names alone."""

from __future__ import annotations

import pymysql
import pytest

from tests.conftest import DatabaseFactory
from tests.isolation.grounds import GROUNDS, SI
from tests.isolation.runner import ask, furnish, open_manager

ASK = {
    "postgresql": "SELECT upper(current_setting('transaction_isolation')), 0",
    "mariadb": "SELECT replace(@@tx_isolation, '-', ' '), @@innodb_snapshot_isolation",
}
MIXED = GROUNDS["PostgreSQL + MariaDB"]


@pytest.fixture
async def urls(database: DatabaseFactory) -> dict[str, str]:
    """Nodes on PostgreSQL and MariaDB in turn."""
    urls = {"x": database("postgresql"), "y": database("mariadb")}
    await furnish(urls)
    return urls


@pytest.mark.parametrize("read_only", [False, True])
async def test_the_configuration_sets_the_level_of_every_branch(urls: dict[str, str], read_only: bool) -> None:
    for ground in MIXED:
        async with open_manager(ground, urls) as tm, tm.transaction() as tx:
            for node in urls:
                kind = ground.server(node)
                found = await ask(await tx.on(node, read_only=read_only), ASK[kind])
                level = ground.levels[kind]
                assert found == [("REPEATABLE READ", 1) if level == SI else (level, 0)]


async def test_a_block_sets_its_own_level_on_postgresql(urls: dict[str, str]) -> None:
    async with open_manager(MIXED[0], urls) as tm, tm.transaction() as tx:
        connection = await tx.on("x")
        await ask(connection, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        assert await ask(connection, ASK["postgresql"]) == [("SERIALIZABLE", 0)]


async def test_a_block_cannot_set_its_own_level_on_mariadb(urls: dict[str, str]) -> None:
    """The branch is open when the block gets it, and the setting for the session comes too late for it."""
    async with open_manager(MIXED[0], urls) as tm:
        tx = tm.transaction()
        with pytest.raises(pymysql.MySQLError, match="1568"):
            async with tx:
                await ask(await tx.on("y"), "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        assert tx.outcome.state == "aborted"
