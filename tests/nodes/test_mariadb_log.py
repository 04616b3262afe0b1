"""With a binary log, MariaDB can die with a commit in one phase that it answered: the transaction is prepared then."""

from __future__ import annotations

import pytest

from nodoubt.nodes.contract import Said
from nodoubt.nodes.mariadb import MariaDB
from nodoubt.nodes.sql import SqlNode
from nodoubt.protocol.verdicts import HomeSays
from nodoubt.testing.servers import MariaDBServer
from tests.conftest import BINARY_LOG, DatabaseFactory
from tests.nodes.mariadb_side import TABLE, Outsider, Side


@pytest.fixture
def url(database: DatabaseFactory) -> str:
    return database("mariadb_log")


async def decide(side: Side, node: SqlNode) -> str:
    """Write, and decide; the gid."""
    own = side.id(0, home="stock")
    branch = await side.begin(node, own, is_home=True)
    await side.sql(branch.connection, "INSERT INTO item VALUES (1, 1)")
    assert (await branch.decide({1: "orders"})).said is Said.YES
    return own.gid


def decided(side: Side, url: str, server: MariaDBServer) -> str:
    """A decision, behind which the server dies; its gid."""
    side.outsider(url)(TABLE)
    gid = side.run(decide(side, side.run(side.node(url))))
    server.kill()
    server.restart()
    return gid


def test_a_decision_is_forced_by_what_follows_it(side: Side, url: str, mariadb_log: MariaDBServer) -> None:
    gid = decided(side, url, mariadb_log)
    see = side.outsider(url)
    assert (_prepared(see, gid), see("SELECT id FROM item")) == (0, ((1,),))


def test_a_server_may_get_its_log_while_a_node_is_open(side: Side) -> None:
    with MariaDBServer.start() as server:
        node = side.run(side.node(server.url))
        side.outsider(server.url)(TABLE)
        side.run(side.begin(node))
        server._settings.update(BINARY_LOG)
        for step in (lambda: None, lambda: side.run(decide(side, node))):
            step()
            server.kill()
            server.restart()
        assert side.outsider(server.url)("SELECT id FROM item") == ((1,),)


@pytest.mark.parametrize("first", ["a list", "a probe"])
def test_a_decision_that_its_server_took_back_is_committed_again(
    side: Side, url: str, mariadb_log: MariaDBServer, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as unforced:
        decide = MariaDB.decide
        unforced.setattr(MariaDB, "decide", lambda *words: decide(*words).partition(";SET TRANSACTION")[0])
        gid = decided(side, url, mariadb_log)
    see, node = side.outsider(url), side.run(side.node(url))
    assert (_prepared(see, gid), see("SELECT id FROM item")) == (1, ())
    if first == "a list":
        assert side.run(node.prepared()).ours == ()
    else:
        assert side.run(node.probe([gid])) == {gid: HomeSays.BUSY}
    assert (_prepared(see, gid), see("SELECT id FROM item")) == (0, ((1,),))
    assert side.run(node.probe([gid])) == {gid: HomeSays.COMMITTED}


def _prepared(see: Outsider, gid: str) -> int:
    return sum(gid.encode() in row[3] for row in see("XA RECOVER"))
