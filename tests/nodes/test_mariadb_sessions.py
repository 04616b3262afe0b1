"""New sessions of the MariaDB adapter: which database they have reached, what they believe, when they end, how they encrypt."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from nodoubt.errors import ConfigError, NodeUnavailable
from nodoubt.nodes.aiomysql_driver import AiomysqlDriver
from nodoubt.nodes.contract import Ended, Said
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.protocol.verdicts import HomeSays
from tests.conftest import DatabaseFactory
from tests.nodes.mariadb_side import Outsider, Side
from tests.tls import Authority


@pytest.fixture
def url(database: DatabaseFactory) -> str:
    return database("mariadb")


def test_a_name_that_leads_to_another_database_by_now_is_noticed(side: Side, url: str) -> None:
    async def story() -> None:
        node, other = await side.node(url), side.outsider(url)
        other("DELETE FROM nodoubt_branch")
        await side.begin(node)
        warned = [finding.fix for finding in await node.inspect() if finding.level == "warning"]
        assert warned == ["run `nodoubt init`"]
        other("UPDATE nodoubt_node SET id = 'restored'")
        await side.make(url).install()
        with pytest.raises(ConfigError, match="leads to another database than when the node was opened"):
            await side.begin(node)
        other("DROP TABLE nodoubt_node, nodoubt_branch")
        with pytest.raises(ConfigError, match="leads to another database than when the node was opened"):
            await node.probe([side.id().gid])

    side.run(story())


def test_new_sessions_know_the_database_while_its_gate_is_closed(side: Side, url: str) -> None:
    async def story() -> None:
        node = await side.node(url, connect_timeout_s=1)
        gate = await node.close_gate(1.0)
        await side.begin(node)
        assert await node.decisions([side.id().gid]) == {}
        await gate.reopen()
        # The row by which they do is nobody's evidence.
        assert await node.old_evidence("z", 9) == []

    side.run(story())


def test_recovery_believes_only_what_is_committed_whatever_level_users_have(side: Side, url: str) -> None:
    async def story() -> None:
        settings = "SET tx_isolation='READ-UNCOMMITTED', sql_select_limit=1, sql_mode='EMPTY_STRING_IS_NULL'"
        node = await side.node(url, options={"init_command": settings})
        other, gids = side.outsider(url), [side.id().gid for _ in range(3)]
        branch = await side.begin(node)
        assert [tuple(row) for row in await side.sql(branch.connection, "SELECT @@tx_isolation")] == [
            ("READ-UNCOMMITTED",)
        ]
        other("BEGIN")
        other(
            "INSERT INTO nodoubt_decision (gid, decision, participants, reason)"
            f" VALUES ('{gids[0]}', 'committed', '{{}}', '')"
        )
        other(f"INSERT INTO nodoubt_branch VALUES ('{gids[0]}', 1)")
        assert await node.decisions(gids) == {}
        with pytest.raises(NodeUnavailable, match="does not list it"):
            await node.applied([(gids[0], 1)])
        other("ROLLBACK")
        assert await node.probe(gids) == dict.fromkeys(gids, HomeSays.FRESH)

    side.run(story())


def test_limits_of_the_server_do_not_stand_in_for_ours(side: Side, url: str) -> None:
    async def story() -> None:
        limits = ("idle_write_transaction_timeout", "idle_readonly_transaction_timeout")
        settings = ", ".join(f"SESSION {limit} = 900" for limit in limits)
        node = await side.node(url, session_limit_s=7, options={"init_command": f"SET {settings}"})
        branch = await side.begin(node)
        asked = f"SELECT @@idle_transaction_timeout, {', '.join(f'@@{limit}' for limit in limits)}"
        assert [tuple(row) for row in await side.sql(branch.connection, asked)] == [(7, 0, 0)]

    side.run(story())


@pytest.fixture(params=["CHAIN", "RELEASE"])
def completion(request: pytest.FixtureRequest, url: str) -> Iterator[None]:
    """What COMMIT does besides, by the server's default."""
    with closing(Outsider(url)) as operator:
        operator(f"SET GLOBAL completion_type = '{request.param}'")
        yield
        operator("SET GLOBAL completion_type = DEFAULT")


def test_a_commit_does_no_more_than_that(side: Side, url: str, completion: None) -> None:
    async def story() -> None:
        node = await side.node(url, pool_size=1, settle_connections=1)
        for _ in range(2):
            reader = await side.begin(node, read_only=True)
            await side.sql(reader.connection, "SELECT 1")
            assert (await reader.release()).said is Said.YES
            gid = side.id().gid
            assert await node.probe([gid]) == {gid: HomeSays.FRESH}
        branch = await side.begin(node)
        assert (await branch.prepare()).said is Said.YES
        assert await branch.commit() is Ended.DONE

    side.run(story())


def test_a_line_that_another_loop_used_serves_nobody_else(url: str) -> None:
    """Its answer comes when nobody reads it, and would be the next transaction's."""

    async def astray(side: Side, connection: Any) -> None:
        await side.sql(connection, "SELECT 777, SLEEP(0.2)")

    async def story(side: Side) -> None:
        node = await side.node(url)
        branch = await side.begin(node)
        with pytest.raises(RuntimeError, match="attached to a different loop"):
            await asyncio.to_thread(asyncio.run, astray(side, branch.connection))
        assert (await branch.prepare()).said in (Said.NO, Said.UNKNOWN)
        following = await side.begin(node)
        assert [tuple(row) for row in await side.sql(following.connection, "SELECT 5")] == [(5,)]
        assert (await following.prepare()).said is Said.YES
        assert await following.commit() is Ended.DONE

    with closing(Side("aiomysql")) as side:
        side.run(story(side))


def test_pymysql_encrypts_where_the_server_can_and_reads_no_authorities_for_that(
    database: DatabaseFactory, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asked, so nothing is verified; PyMySQL by itself would read them all for each connection."""
    by_itself = ssl.create_default_context
    read: list[str] = []

    def noting(**asked: Any) -> ssl.SSLContext:
        read.append(asked["cafile"])
        return by_itself(**asked)

    monkeypatch.setattr(ssl, "create_default_context", noting)

    async def cipher(side: Side, url: str) -> str:
        branch = await side.begin(await side.node(url))
        ((_, name),) = await side.sql(branch.connection, "SHOW STATUS LIKE 'Ssl_cipher'")
        return str(name)

    with closing(Side("pymysql")) as side:
        assert side.run(cipher(side, database("mariadb_log")))
        assert not side.run(cipher(side, database("mariadb")))
        assert read == []
        assert side.run(cipher(side, authority.insist(database("mariadb_log"))))
        assert set(read) == {str(authority.file)}


def test_a_dead_line_is_not_left_open(url: str) -> None:
    async def story() -> None:
        session = await AiomysqlDriver().connect(NodeSettings(url=url))
        raw = session._raw
        raw._writer.transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        await session.close()
        assert raw.closed

    asyncio.run(story())
