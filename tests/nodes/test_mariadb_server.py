"""The MariaDB adapter and the server it is given: identity, several nodes on one server, settings, logins, dead ends."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import closing

import pytest

from nodoubt.errors import ConfigError, NodeUnavailable
from nodoubt.nodes.contract import Ended, Said
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.nodes.mariadb_drivers import options, understand
from nodoubt.nodes.mariadb_inspect import too_old
from nodoubt.nodes.mariadb_tables import DDL
from nodoubt.protocol.verdicts import HomeSays
from nodoubt.testing.processes import free_port, release_port
from nodoubt.testing.servers import MariaDBServer
from tests.conftest import DatabaseFactory
from tests.nodes.mariadb_side import Side


@pytest.fixture
def url(database: DatabaseFactory) -> str:
    return database("mariadb")


def test_two_nodes_on_one_server(side: Side, url: str, database: DatabaseFactory) -> None:
    async def story() -> None:
        first, second = await side.node(url, "first"), await side.node(database("mariadb"), "second")
        gid = side.id().gid
        branches = [await side.begin(node, side.id(n, gid=gid)) for n, node in enumerate((first, second))]
        for branch in branches:
            assert (await branch.prepare()).said is Said.YES
        for number, node in enumerate((first, second)):
            (found,) = (await node.prepared()).ours
            assert found.id.branch == number
            assert await node.finish(found.id, commit=True) is Ended.DONE
            assert await node.applied([(gid, 0), (gid, 1)]) == {(gid, number)}

    side.run(story())


def test_foreign_branches_are_counted_and_left_alone(side: Side, url: str) -> None:
    async def story() -> None:
        node, other = await side.node(url), side.outsider(url)
        before = (await node.prepared()).foreign
        # Another transaction manager's id, of bytes that are no text.
        xid = "X'ff00fe', X'c328', 4711"
        other("CREATE TABLE f (a INT)")
        for text in (f"XA START {xid}", "INSERT INTO f VALUES (1)", f"XA END {xid}", f"XA PREPARE {xid}"):
            other(text)
        listing = await node.prepared()
        assert listing.ours == ()
        assert listing.foreign == before + 1
        assert "foreign" in {finding.check for finding in await node.inspect()}
        other(f"XA ROLLBACK {xid}")

    side.run(story())


def test_identity(side: Side, url: str, database: DatabaseFactory) -> None:
    async def story() -> None:
        node = side.make(url, "stock")
        with pytest.raises(ConfigError, match="missing"):
            await node.open()
        assert "installed" in await node.install()
        assert "already installed" in await node.install()
        await node.open()
        swapped = side.make(url, "orders")
        with pytest.raises(ConfigError, match="'stock'"):
            await swapped.open()
        with pytest.raises(ConfigError, match="'stock'"):
            await swapped.install()
        assert [f.level for f in await swapped.inspect() if f.check == "identity"] == ["error"]
        by_hand, empty = side.outsider(empty_url := database("mariadb")), side.make(empty_url, "empty")
        for text in empty.ddl().split(";\n"):
            if text:
                by_hand(text)
        await empty.open()

    side.run(story())


def test_inspection_of_a_healthy_server(side: Side, url: str) -> None:
    async def story() -> None:
        node = await side.node(url)
        levels = {finding.check: finding.level for finding in await node.inspect() if finding.check != "foreign"}
        assert levels == dict.fromkeys(("version", "durable", "prepared", "identity", "privileges", "clock"), "ok")
        side.outsider(url)("CREATE TABLE log (a INT) ENGINE=MyISAM")
        assert any("log" in finding.text and finding.level == "warning" for finding in await node.inspect())

    side.run(story())


def test_clocks_that_differ_are_told(side: Side, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        node = await side.node(url)
        an_hour_ago = side.world.unix_ms() - 3_600_000
        monkeypatch.setattr(side.world, "unix_ms", lambda: an_hour_ago)
        (finding,) = [finding for finding in await node.inspect() if finding.check == "clock"]
        assert finding.level == "warning"
        assert "s ahead of the clock of this machine" in finding.text

    side.run(story())


def test_a_user_without_privileges_is_told(side: Side, url: str, mariadb: MariaDBServer) -> None:
    async def story() -> None:
        await side.node(url)
        root, name = side.outsider(url), url.rpartition("/")[2]
        root(f"CREATE USER {name}@127.0.0.1 IDENTIFIED BY 'p@ss/w:rd'")
        root(f"GRANT SELECT ON {name}.* TO {name}@127.0.0.1")
        poor = side.make(f"mariadb://{name}:p%40ss%2Fw%3Ard@127.0.0.1:{mariadb.port}/{name}")
        assert [f.level for f in await poor.inspect() if f.check == "privileges"] == ["error", "warning"]
        root(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.* TO {name}@127.0.0.1")
        await poor.open()
        with pytest.raises(NodeUnavailable, match="close its gate") as refused:
            await poor.close_gate(1.0)
        assert not refused.value.retryable
        (lacking,) = [f for f in await poor.inspect() if f.check == "privileges" and f.level == "warning"]
        assert "GRANT LOCK TABLES" in lacking.fix
        root(f"GRANT LOCK TABLES ON {name}.* TO {name}@127.0.0.1")
        await (await poor.close_gate(1.0)).reopen()
        assert {f.level for f in await poor.inspect() if f.check == "privileges"} == {"ok"}
        branch = await side.begin(poor)
        assert (await branch.prepare()).said is Said.YES
        (found,) = (await poor.prepared()).ours
        # No privilege is needed to end one's own user's sessions.
        assert await poor.finish(found.id, commit=True) is Ended.DONE
        root(f"DROP USER {name}@127.0.0.1")

    side.run(story())


def test_server_that_may_lose_commits_is_refused_as_home(caplog: pytest.LogCaptureFixture) -> None:
    with MariaDBServer.start({"innodb_flush_log_at_trx_commit": "2"}) as server:
        side = Side("pymysql")
        with caplog.at_level(logging.WARNING, "nodoubt"):
            node = side.run(side.node(server.url))
        assert node.home_refusal
        assert "innodb_flush_log_at_trx_commit" in caplog.text
        root = side.outsider(server.url)
        root("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
        again = side.run(side.node(server.url))
        assert not again.home_refusal
        caplog.clear()
        with caplog.at_level(logging.WARNING, "nodoubt"):
            side.run(node.check_durable())
            assert not node.home_refusal
            root("SET GLOBAL innodb_flush_log_at_trx_commit = 0")
            for _ in range(2):
                side.run(node.check_durable())
                assert "innodb_flush_log_at_trx_commit is 0" in node.home_refusal
        assert [message.split(": ")[0] for message in caplog.messages] == [
            f"node {node.name!r} takes branches that write again",
            f"node {node.name!r} is for reading only",
        ]
        side.close()


def test_binary_log_must_be_forced_too() -> None:
    with MariaDBServer.start({"log_bin": "binlog", "sync_binlog": "0", "server_id": "1"}) as server:
        side = Side("pymysql")
        node = side.run(side.node(server.url))
        assert node.home_refusal
        side.outsider(server.url)("SET GLOBAL sync_binlog = 1")
        again = side.run(side.node(server.url))
        assert not again.home_refusal

        async def story() -> None:
            branch = await side.begin(again)
            assert (await branch.prepare()).said is Said.YES
            (found,) = (await again.prepared()).ours
            assert await again.finish(found.id, commit=True) is Ended.DONE

        side.run(story())
        side.close()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("mariadb://nobody:wrong@127.0.0.1:{port}/{name}", ConfigError),
        ("mariadb://root@127.0.0.1:{port}/no_such_database", ConfigError),
        ("mariadb://root@127.0.0.1:{port}/", ConfigError),
        ("mariadb://root@127.0.0.1:{port}/{name}?sockt=x", ConfigError),
        ("mariadb://root@127.0.0.1:{closed}/{name}", NodeUnavailable),
    ],
)
def test_login(side: Side, url: str, mariadb: MariaDBServer, wrong: str, error: type[Exception]) -> None:
    closed = free_port()
    release_port(closed)
    node = side.make(wrong.format(port=mariadb.port, name=url.rpartition("/")[2], closed=closed))
    with pytest.raises(error):
        side.run(node.open())


def test_unix_socket(side: Side, url: str, mariadb: MariaDBServer) -> None:
    node = side.make(f"mysql://root@localhost/{url.rpartition('/')[2]}?unix_socket={mariadb.folder}/socket")
    assert "installed" in side.run(node.install())


def test_frozen_server_is_not_waited_for_longer_than_told(side: Side, url: str, mariadb: MariaDBServer) -> None:
    node = side.make(url, connect_timeout_s=0.2)
    mariadb.pause()
    with pytest.raises(NodeUnavailable):
        side.run(node.open())
    mariadb.resume()


def test_abandon_wakes_whoever_waits(side: Side, url: str) -> None:
    """From another thread, in the middle of a statement of the user."""

    async def story() -> None:
        node, see = await side.node(url), side.outsider(url)
        branch = await side.begin(node)
        mine = f"SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '%SLEEP(30) AS {side.domain}%'"

        def cut() -> None:
            while see(mine) != ((2,),):
                pass
            branch.abandon()

        thread = threading.Thread(target=cut)
        thread.start()
        with pytest.raises(Exception, match="Lost connection"):
            await side.sql(branch.connection, f"SELECT SLEEP(30) AS {side.domain}")
        thread.join()
        assert (await branch.prepare()).said is Said.NO

    side.run(story())


def test_probers_race_committers(url: str) -> None:
    """Each key has one winner, every prober agrees with it, and at most one prober calls the tombstone its own."""
    side = Side("aiomysql")

    async def story() -> None:
        node = await side.node(url)
        owns = [side.id(0, home="stock") for _ in range(12)]
        gids = [own.gid for own in owns]
        branches = [await side.begin(node, own, is_home=True) for own in owns]
        half = [branch.decide({}) for branch in branches]
        probes = [node.probe(gids[n:] + gids[:n]) for n in range(6)]
        decided, found = await asyncio.gather(asyncio.gather(*half), asyncio.gather(*probes))
        answers = {gid: answer.said for gid, answer in zip(gids, decided, strict=True)}
        assert set(answers.values()) <= {Said.YES, Said.CONFLICT, Said.NO}
        final = await node.probe(gids)
        for gid in gids:
            told = [says[gid] for says in found if says[gid] is not HomeSays.BUSY]
            if answers[gid] is Said.YES:
                assert {*told, final[gid]} == {HomeSays.COMPLETE}
            else:
                assert {*told, final[gid]} <= {HomeSays.FRESH, HomeSays.ABORTED}
                assert told.count(HomeSays.FRESH) <= 1

    for _ in range(10):
        side.run(story())
    side.close()


def test_a_cancelled_command_leaves_no_answer_behind(url: str) -> None:
    side = Side("aiomysql")

    async def story() -> None:
        node = await side.node(url)
        branch = await side.begin(node)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await side.sql(branch.connection, "SELECT SLEEP(30)")
        assert await branch.roll_back(prepared=False) is Ended.DONE

    side.run(story())
    side.close()


def test_session_ends_when_it_idles_too_long(side: Side, url: str) -> None:
    async def story() -> None:
        node = await side.node(url, session_limit_s=1)
        branch = await side.begin(node)
        seen = side.outsider(url)
        # The server's own clock lets the time pass.
        seen("SELECT SLEEP(2.5)")
        assert (await branch.prepare()).said is Said.UNKNOWN
        assert await branch.roll_back(prepared=True) is Ended.ABSENT

    side.run(story())


def test_versions() -> None:
    for version in ("10.4.30-MariaDB", "5.7.44"):
        assert "rolls prepared branches back" in (too_old(version, logs=False) or "")
    assert "has a binary log" in (too_old("8.0.29-commercial", logs=True) or "")
    for version, logs in (("10.5.1-MariaDB-log", True), ("11.4.2-MariaDB", False), ("8.0.30", True), ("8.0.15", False)):
        assert too_old(version, logs=logs) is None


def test_options_are_decoded() -> None:
    wanted = options(NodeSettings(url="mariadb://us%40er:p%2Fw@h.example:3307/d%20b?charset=latin1"))
    assert (wanted["user"], wanted["password"], wanted["host"], wanted["port"]) == ("us@er", "p/w", "h.example", 3307)
    assert (wanted["database"], wanted["charset"]) == ("d b", "latin1")
    with pytest.raises(ConfigError, match="cannot read"):
        options(NodeSettings(url="mariadb://h:port/d"))


def test_errors_are_understood() -> None:
    duplicate = understand(Exception(1062, "Doppelter Eintrag 'x' für Schlüssel 'PRIMARY'"), from_driver=True)
    assert isinstance(duplicate, StatementFailed)
    assert duplicate.constraint == "PRIMARY"
    for lost in (Exception(2013, "lost"), Exception("Packet sequence number wrong"), Exception(1927, "killed")):
        assert isinstance(understand(lost, from_driver=True), ConnectionLost)
    assert isinstance(understand(OSError(1062, "no answer of a server"), from_driver=False), ConnectionLost)


def test_ddl_names_every_table() -> None:
    assert [text.split()[5] for text in DDL] == ["nodoubt_node", "nodoubt_decision", "nodoubt_branch"]


def test_a_galera_cluster_is_named() -> None:
    """A cluster of one: it commits, and refuses every XA transaction."""
    ports = [free_port(), free_port()]
    cluster = {
        "wsrep_on": "ON",
        "wsrep_provider": "/usr/lib/galera/libgalera_smm.so",
        "wsrep_provider_options": f"gmcast.listen_addr=tcp://127.0.0.1:{ports[0]};ist.recv_addr=127.0.0.1:{ports[1]}",
        "wsrep_cluster_address": "gcomm://",
        "wsrep_node_address": "127.0.0.1",
        "binlog_format": "ROW",
    }

    async def story(side: Side) -> None:
        node = await side.node(server.url)
        (prepared,) = [finding for finding in await node.inspect() if finding.level == "error"]
        assert (prepared.check, "a Galera cluster has none" in prepared.fix) == ("prepared", True)
        with pytest.raises(NodeUnavailable, match="XA transactions with Galera replication"):
            await side.begin(node)

    with MariaDBServer.start(cluster) as server, closing(Side("pymysql")) as side:
        side.run(story(side))
    for port in ports:
        release_port(port)
