"""The MariaDB adapter against a real server, by both drivers: the stories of the contract, and what breaks them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nodoubt.errors import NodeUnavailable
from nodoubt.nodes import sql
from nodoubt.nodes.contract import Ended, PreparedBranch, Said
from nodoubt.nodes.sql import SqlNode
from nodoubt.protocol.verdicts import HomeSays
from nodoubt.testing.servers import MariaDBServer
from tests.conftest import DatabaseFactory
from tests.nodes.mariadb_side import TABLE, DriverName, Side


@pytest.fixture(params=["aiomysql", "pymysql"])
def side(request: pytest.FixtureRequest, mariadb: MariaDBServer) -> Iterator[Side]:
    driver: DriverName = request.param
    made = Side(driver)
    yield made
    mariadb.resume()
    if not mariadb.running:
        mariadb.restart()
    made.close()


@pytest.fixture
def url(database: DatabaseFactory) -> str:
    return database("mariadb")


async def listed(node: SqlNode) -> list[PreparedBranch]:
    return list((await node.prepared()).ours)


def test_prepare_then_commit(side: Side, url: str) -> None:
    async def story() -> None:
        node, see = await side.node(url), side.outsider(url)
        see(TABLE)
        branch = await side.begin(node)
        await side.sql(branch.connection, "INSERT INTO item VALUES (%s, %s)", 1, 10)
        assert (await branch.prepare()).said is Said.YES
        (found,) = await listed(node)
        assert found.id.branch == 1
        assert found.id.home == "orders"
        assert found.age_s >= 0
        assert see("SELECT * FROM item") == ()
        assert await branch.commit() is Ended.DONE
        assert await listed(node) == []
        assert see("SELECT * FROM item") == ((1, 10),)
        gid = found.id.gid
        assert await node.applied([(gid, 1), (gid, 2)]) == {(gid, 1)}
        assert await node.finish(found.id, commit=True) is Ended.APPLIED
        await node.drop_evidence([gid])
        assert await node.finish(found.id, commit=True) is Ended.ABSENT

    side.run(story())


@pytest.mark.parametrize("prepared", [True, False])
def test_roll_back(side: Side, url: str, prepared: bool) -> None:
    async def story() -> None:
        node, see = await side.node(url), side.outsider(url)
        see(TABLE)
        branch = await side.begin(node)
        await side.sql(branch.connection, "INSERT INTO item VALUES (1, 10)")
        if prepared:
            assert (await branch.prepare()).said is Said.YES
        assert await branch.roll_back(prepared=prepared) is Ended.DONE
        assert await listed(node) == []
        assert see("SELECT * FROM item") == ()
        # The session came back clean: the next branch runs on it.
        again = await side.begin(node)
        await side.sql(again.connection, "INSERT INTO item VALUES (1, 11)")
        assert (await again.prepare()).said is Said.YES
        assert await again.commit() is Ended.DONE

    side.run(story())


def test_decide_complete_purge(side: Side, url: str) -> None:
    async def story() -> None:
        node, see = await side.node(url), side.outsider(url)
        see(TABLE)
        own = side.id(0, home="stock")
        branch = await side.begin(node, own, is_home=True)
        await side.sql(branch.connection, "INSERT INTO item VALUES (1, 10)")
        assert (await branch.decide({1: "orders"})).said is Said.YES
        assert see("SELECT * FROM item") == ((1, 10),)
        assert await node.probe([own.gid]) == {own.gid: HomeSays.COMMITTED}
        row = (await node.decisions([own.gid]))[own.gid]
        assert row.participants == {1: "orders"}
        assert [row.gid for row in await node.unfinished(10)] == [own.gid]
        await node.complete([own.gid])
        assert await node.unfinished(10) == []
        assert await node.probe([own.gid]) == {own.gid: HomeSays.COMPLETE}
        assert await node.purge("z" * 26, 3600, 10) == 0
        assert await node.purge("z" * 26, -1, 10) == 1
        assert await node.decisions([own.gid]) == {}

    side.run(story())


def test_a_tombstone_that_was_under_way_for_too_long_is_not_taken(
    side: Side, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        node, gids = await side.node(url), [side.id().gid, side.id().gid]
        with monkeypatch.context() as patch:
            patch.setattr(sql, "PROBE_S_MAX", -1.0)
            with pytest.raises(NodeUnavailable, match="reason"):
                await node.probe(gids)
        assert await node.decisions(gids) == {}
        assert await node.probe(gids) == dict.fromkeys(gids, HomeSays.FRESH)

    side.run(story())


def test_tombstone_conflicts_with_a_late_decision(side: Side, url: str) -> None:
    async def story() -> None:
        node, see = await side.node(url), side.outsider(url)
        see(TABLE)
        own = side.id(0, home="stock")
        branch = await side.begin(node, own, is_home=True)
        await side.sql(branch.connection, "INSERT INTO item VALUES (1, 10)")
        assert await node.probe([own.gid]) == {own.gid: HomeSays.FRESH}
        assert await node.probe([own.gid]) == {own.gid: HomeSays.ABORTED}
        assert (await branch.decide({})).said is Said.CONFLICT
        assert see("SELECT * FROM item") == ()

    side.run(story())


def test_probe_says_busy_while_a_committer_holds_the_key(side: Side, url: str) -> None:
    async def story() -> None:
        node, committer = await side.node(url), side.outsider(url)
        held, free = side.id().gid, side.id().gid
        committer("BEGIN")
        committer(
            f"INSERT INTO nodoubt_decision (gid, decision, participants, reason) VALUES ('{held}','committed','{{}}','')"
        )
        assert await node.probe([free, held]) == {free: HomeSays.FRESH, held: HomeSays.BUSY}
        committer("COMMIT")
        assert await node.probe([held]) == {held: HomeSays.COMMITTED}

    side.run(story())


def test_person_resolves(side: Side, url: str) -> None:
    async def story() -> None:
        node = await side.node(url)
        gid, other = side.id().gid, side.id().gid
        assert await node.resolve(gid, commit=True, reason="it's \\ so") is HomeSays.COMMITTED
        assert await node.resolve(gid, commit=False, reason="no") is HomeSays.COMMITTED
        assert await node.probe([gid]) == {gid: HomeSays.COMMITTED}
        assert await node.resolve(other, commit=False, reason="no") is HomeSays.ABORTED

    side.run(story())


@pytest.mark.parametrize("commit", [True, False])
def test_lost_session_is_finished_by_another(side: Side, url: str, commit: bool) -> None:
    async def story() -> None:
        node, see = await side.node(url), side.outsider(url)
        see(TABLE)
        branch = await side.begin(node)
        await side.sql(branch.connection, "INSERT INTO item VALUES (1, 10)")
        assert (await branch.prepare()).said is Said.YES
        branch.abandon()
        assert await (branch.commit() if commit else branch.roll_back(prepared=True)) is Ended.DONE
        assert await listed(node) == []
        assert len(see("SELECT * FROM item")) == commit

    side.run(story())


def test_attached_owner_is_killed_and_nobody_else(side: Side, url: str) -> None:
    async def story() -> None:
        node, settler = await side.node(url), await side.node(url)
        bystander = await side.begin(node)
        for _ in range(20):
            branch = await side.begin(node)
            assert (await branch.prepare()).said is Said.YES
            (found,) = await listed(settler)
            assert await settler.finish(found.id, commit=True) is Ended.DONE
            assert await branch.commit() is Ended.APPLIED
        assert (await bystander.prepare()).said is Said.YES
        assert await bystander.roll_back(prepared=True) is Ended.DONE

    side.run(story())


def test_session_that_dies_before_it_prepares(side: Side, url: str) -> None:
    async def story() -> None:
        node = await side.node(url)
        branch = await side.begin(node)
        branch.abandon()
        assert (await branch.prepare()).said is Said.UNKNOWN
        assert await branch.roll_back(prepared=True) is Ended.ABSENT
        deciding = await side.begin(node, is_home=True)
        deciding.abandon()
        assert (await deciding.decide({})).said is Said.UNKNOWN

    side.run(story())


def test_server_killed_between_prepare_and_finish(side: Side, url: str, mariadb: MariaDBServer) -> None:
    async def story() -> None:
        node = await side.node(url)
        side.outsider(url)(TABLE)
        idle = await side.begin(node)
        branch = await side.begin(node)
        await side.sql(branch.connection, "INSERT INTO item VALUES (1, 10)")
        assert (await branch.prepare()).said is Said.YES
        assert await idle.roll_back(prepared=False) is Ended.DONE
        mariadb.kill()
        assert await branch.commit() is Ended.OWED
        with pytest.raises(NodeUnavailable):
            await node.prepared()
        mariadb.restart()
        (found,) = await listed(node)
        assert await node.finish(found.id, commit=True) is Ended.DONE
        assert side.outsider(url)("SELECT * FROM item") == ((1, 10),)
        # The pool's other session died with the server; a branch does not notice.
        again = await side.begin(node)
        assert (await again.prepare()).said is Said.YES
        assert await again.commit() is Ended.DONE

    side.run(story())


def test_failed_statement_refuses_unless_a_savepoint_undid_it(side: Side, url: str) -> None:
    async def story() -> None:
        node, see = await side.node(url), side.outsider(url)
        see(TABLE)
        see("INSERT INTO item VALUES (1, 10)")
        for is_home in (False, True):
            branch = await side.begin(node, is_home=is_home)
            with pytest.raises(Exception, match="Duplicate entry"):
                await side.sql(branch.connection, "INSERT INTO item VALUES (1, 11)")
            answer = await (branch.decide({}) if is_home else branch.prepare())
            assert answer.said is Said.NO
            assert "Duplicate entry" in answer.reason
            branch = await side.begin(node)
            await side.sql(branch.connection, "INSERT INTO item VALUES (%s, 20)", 20 + is_home)
            await side.sql(branch.connection, "SAVEPOINT sp")
            with pytest.raises(Exception, match="Duplicate entry"):
                await side.sql(branch.connection, "INSERT INTO item VALUES (1, 11)")
            await side.sql(branch.connection, "ROLLBACK TO SAVEPOINT sp")
            assert (await branch.prepare()).said is Said.YES
            assert await branch.commit() is Ended.DONE
        assert see("SELECT id FROM item ORDER BY id") == ((1,), (20,), (21,))

    side.run(story())


def test_a_session_whose_number_outgrew_an_integer_forces_what_it_reads(side: Side, url: str) -> None:
    async def story() -> None:
        node = await side.node(url, options={"init_command": "SET SESSION pseudo_thread_id = 4294967295"})
        session = await node.connect()
        assert await session.query("SELECT CONNECTION_ID()") == [(4294967295,)]
        await session.close()
        assert await node.applied([(side.id().gid, 1)]) == set()

    side.run(story())
