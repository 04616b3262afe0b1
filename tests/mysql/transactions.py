"""What is special about MySQL, and the bank of the demo on it."""

from __future__ import annotations

import json

import pytest

from nodoubt.errors import ConfigError
from nodoubt.nodes.contract import Ended, Isolation, Said
from nodoubt.testing.servers import MySQLServer
from tests.commands import ended, started
from tests.conftest import DatabaseFactory
from tests.nodes.conftest import side
from tests.nodes.mariadb_side import TABLE, Side

__all__ = ["side"]


@pytest.fixture
def url(database: DatabaseFactory) -> str:
    return database("mysql")


def test_a_first_statement_may_touch_no_table(side: Side, url: str) -> None:
    async def story() -> None:
        node = await side.node(url)
        side.outsider(url)(TABLE)
        branch = await side.begin(node)
        assert await side.sql(branch.connection, "SELECT 1") == [(1,)]
        await side.sql(branch.connection, "INSERT INTO item VALUES (1, 1)")
        assert (await branch.prepare()).said is Said.YES
        assert await branch.commit() is Ended.DONE

    side.run(story())
    assert side.outsider(url)("SELECT id FROM item") == ((1,),)


def test_a_user_who_cannot_list_branches_is_told_at_once(side: Side, url: str, mysql: MySQLServer) -> None:
    async def story() -> None:
        await side.node(url)
        root, name = side.outsider(url), url.rpartition("/")[2]
        root(f"CREATE USER {name}@127.0.0.1")
        root(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.* TO {name}@127.0.0.1")
        poor = side.make(f"mysql://{name}@127.0.0.1:{mysql.port}/{name}")
        with pytest.raises(ConfigError, match="cannot list prepared branches") as refused:
            await poor.open()
        assert "XA_RECOVER_ADMIN" in refused.value.hint
        (lacking,) = [finding for finding in await poor.inspect() if finding.level == "error"]
        assert (lacking.check, lacking.fix) == ("prepared", refused.value.hint)
        root(f"GRANT XA_RECOVER_ADMIN ON *.* TO {name}@127.0.0.1")
        await poor.open()

    side.run(story())


def test_a_snapshot_that_writes_is_refused(side: Side, url: str) -> None:
    node = side.run(side.node(url))
    assert "innodb_snapshot_isolation" in node.refusal(Isolation.SNAPSHOT, read_only=False)
    assert node.refusal(Isolation.SNAPSHOT, read_only=True) == ""
    assert node.refusal(Isolation.SERIALIZABLE, read_only=False) == ""


async def test_no_money_is_lost_when_workers_are_killed(database: DatabaseFactory) -> None:
    nodes = [f"{name}={database('mysql')}" for name in "abc"]
    async with started("demo", "--json", "--seconds", "8", "--kills", "6", "--seed", "1", "--nodes", *nodes) as process:
        bank = json.loads((await ended(process)).out)
    assert bank["in_doubt"] == 0
    assert bank["total_before"] == bank["total_after"]
    assert bank["transactions"] > 0 < bank["kills"]
