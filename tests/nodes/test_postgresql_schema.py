"""Tables of ours on PostgreSQL: made, migrated, shown as text, and refused where they are not ours or newer than we are."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from nodoubt.engine.worlds import AsyncWorld
from nodoubt.errors import ConfigError
from nodoubt.nodes.contract import Node
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.identity import SCHEMA_VERSION
from nodoubt.nodes.registry import make_node
from nodoubt.protocol.ids import new_gid
from nodoubt.protocol.verdicts import HomeSays
from tests.conftest import DatabaseFactory

GID = new_gid(0, bytes(10))


def node_at(url: str, name: str = "a", domain: str = "shop") -> Node:
    return make_node(name, domain, NodeSettings(url=url), AsyncWorld(), asynchronous=True)


async def execute(url: str, *statements: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return [tuple(row) for row in await connection.fetch(statements[-1])]
    finally:
        await connection.close()


async def test_a_fresh_database_gets_all_steps_and_a_second_time_changes_nothing(database: DatabaseFactory) -> None:
    url = database("postgresql")
    assert await node_at(url).install() == f"installed, schema {SCHEMA_VERSION}"
    (before,) = await execute(url, "SELECT name, domain, id, schema_version FROM nodoubt.node")
    assert before[:2] == ("a", "shop")
    assert before[3] == SCHEMA_VERSION
    assert await node_at(url).install() == f"already installed, schema {SCHEMA_VERSION}"
    assert await execute(url, "SELECT name, domain, id, schema_version FROM nodoubt.node") == [before]


async def test_two_installations_at_once_take_turns(database: DatabaseFactory) -> None:
    url = database("postgresql")
    done = await asyncio.gather(*(node_at(url).install() for _ in range(4)))
    assert sorted(done)[:3] == [f"already installed, schema {SCHEMA_VERSION}"] * 3
    assert sorted(done)[3] == f"installed, schema {SCHEMA_VERSION}"


async def test_an_older_schema_is_refused_at_work_and_migrated_by_install(database: DatabaseFactory) -> None:
    url = database("postgresql")
    await node_at(url).install()
    # As the schema before the first would have been: an identity, and none of what the steps add.
    await execute(
        url, "DROP TABLE nodoubt.decision, nodoubt.branch", "UPDATE nodoubt.node SET schema_version = 0", "SELECT 1"
    )
    (before,) = await execute(url, "SELECT id FROM nodoubt.node")
    with pytest.raises(ConfigError, match="have schema 0") as caught:
        await node_at(url).open()
    assert "nodoubt init" in caught.value.hint
    assert await node_at(url).install() == f"migrated from schema 0 to {SCHEMA_VERSION}"
    assert await execute(url, "SELECT id, schema_version FROM nodoubt.node") == [(*before, SCHEMA_VERSION)]
    node = node_at(url)
    await node.open()
    assert await node.probe([GID]) == {GID: HomeSays.FRESH}
    await node.close()


async def test_a_newer_schema_is_refused(database: DatabaseFactory) -> None:
    url = database("postgresql")
    await node_at(url).install()
    await execute(url, f"UPDATE nodoubt.node SET schema_version = {SCHEMA_VERSION + 1}", "SELECT 1")
    for step in (node_at(url).install, node_at(url).open):
        with pytest.raises(ConfigError, match=f"have schema {SCHEMA_VERSION + 1}") as caught:
            await step()
        assert "upgrade nodoubt" in caught.value.hint


@pytest.mark.parametrize(("name", "domain"), [("b", "shop"), ("a", "office")])
async def test_another_nodes_database_is_refused(database: DatabaseFactory, name: str, domain: str) -> None:
    url = database("postgresql")
    await node_at(url).install()
    with pytest.raises(ConfigError, match="reached"):
        await node_at(url, name, domain).install()
    assert await execute(url, "SELECT name, domain FROM nodoubt.node") == [("a", "shop")]


async def test_the_printed_statements_do_what_install_does(database: DatabaseFactory) -> None:
    url = database("postgresql")
    await execute(url, node_at(url).ddl(), "SELECT 1")
    assert await node_at(url).install() == f"already installed, schema {SCHEMA_VERSION}"
    node = node_at(url)
    await node.open()
    await node.close()


async def test_a_person_decides_where_nothing_stands_and_replaces_what_nobody_can_read(
    database: DatabaseFactory,
) -> None:
    url = database("postgresql")
    node = node_at(url)
    await node.install()
    assert await node.resolve(GID, commit=True, reason="first") is HomeSays.COMMITTED
    assert await node.resolve(GID, commit=False, reason="second") is HomeSays.COMMITTED
    garbage = "E'gar\\\\b''age'"
    await execute(url, f'UPDATE nodoubt.decision SET decision = {garbage}, participants = \'{{"1":"b"}}\'', "SELECT 1")
    assert (await node.decisions([GID]))[GID].says is HomeSays.BROKEN
    assert await node.resolve(GID, commit=False, reason="third") is HomeSays.ABORTED
    row = (await node.decisions([GID]))[GID]
    assert row.participants == {1: "b"}
    assert row.reason.startswith("third (instead of an unreadable row: decision ")
    assert "age" in row.reason
    await execute(url, "UPDATE nodoubt.decision SET participants = '[]'", "SELECT 1")
    assert await node.resolve(GID, commit=True, reason="fourth") is HomeSays.COMMITTED
    assert (await node.decisions([GID]))[GID].participants == {}
    await node.close()
