"""PostgreSQL as a node, with each of its drivers: votes, decisions, and what recovery finds."""

from __future__ import annotations

import pytest

from nodoubt.errors import ConfigError, NodeUnavailable
from nodoubt.nodes import sql
from nodoubt.nodes.contract import Ended
from nodoubt.protocol.verdicts import HomeSays
from nodoubt.testing.servers import PostgreSQLServer
from tests.conftest import DatabaseFactory
from tests.nodes.postgresql_lab import DRIVERS, Lab, said, scenario


@pytest.fixture(params=DRIVERS)
def lab(request: pytest.FixtureRequest, database: DatabaseFactory) -> Lab:
    return Lab(request.param, database)


@scenario
async def test_a_branch_prepares_and_commits(lab: Lab) -> None:
    node = await lab.node()
    branch_id, branch = await lab.prepared(node)
    assert [found.id for found in (await node.prepared()).ours] == [branch_id]
    assert lab.keys(node) == []
    assert await branch.commit() is Ended.DONE
    assert lab.keys(node) == [1]
    assert (await node.prepared()).ours == ()


@pytest.mark.parametrize("prepared", [False, True])
@scenario
async def test_a_branch_rolls_back(lab: Lab, prepared: bool) -> None:
    node = await lab.node()
    _, branch = await lab.branch(node)
    await lab.do(branch.connection, "INSERT INTO t VALUES (1)")
    if prepared:
        assert said(await branch.prepare()) == "yes"
    assert await branch.roll_back(prepared=prepared) is Ended.DONE
    assert lab.keys(node) == []
    assert (await node.prepared()).ours == ()


@scenario
async def test_a_read_only_branch_is_released(lab: Lab) -> None:
    node = await lab.node()
    _, branch = await lab.branch(node, read_only=True)
    with pytest.raises(Exception, match="read-only"):
        await lab.do(branch.connection, "INSERT INTO t VALUES (1)")
    await branch.roll_back(prepared=False)
    _, branch = await lab.branch(node, read_only=True)
    assert await lab.rows(branch.connection, "SELECT k FROM t") == []
    assert said(await branch.release()) == "yes"


@pytest.mark.parametrize(("participants", "row"), [({}, HomeSays.COMPLETE), ({1: "other"}, HomeSays.COMMITTED)])
@scenario
async def test_the_decision_commits_with_the_work(lab: Lab, participants: dict[int, str], row: HomeSays) -> None:
    node = await lab.node()
    branch_id, branch = await lab.branch(node, home=True)
    # The block's own choice must not weaken the decision.
    await lab.do(branch.connection, "SET LOCAL synchronous_commit = off")
    await lab.do(branch.connection, "INSERT INTO t VALUES (1)")
    assert said(await branch.decide(participants)) == "yes"
    found = (await node.decisions([branch_id.gid]))[branch_id.gid]
    assert (found.says, found.participants) == (row, participants)
    assert lab.keys(node) == [1]


@scenario
async def test_a_tombstone_that_was_under_way_for_too_long_is_not_taken(lab: Lab) -> None:
    node = await lab.node()
    branch_id, branch = await lab.branch(node)
    await branch.roll_back(prepared=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql, "PROBE_S_MAX", -1.0)
        with pytest.raises(NodeUnavailable, match="asked too late"):
            await node.probe([branch_id.gid])
    assert await node.decisions([branch_id.gid]) == {}
    assert await node.probe([branch_id.gid]) == {branch_id.gid: HomeSays.FRESH}


@scenario
async def test_a_tombstone_stops_the_decision(lab: Lab) -> None:
    node = await lab.node()
    branch_id, branch = await lab.branch(node, home=True)
    await lab.do(branch.connection, "INSERT INTO t VALUES (1)")
    assert await node.probe([branch_id.gid]) == {branch_id.gid: HomeSays.FRESH}
    assert said(await branch.decide({})) == "conflict"
    assert await node.probe([branch_id.gid]) == {branch_id.gid: HomeSays.ABORTED}
    assert lab.keys(node) == []


@scenario
async def test_a_deferred_constraint_of_the_user_is_a_plain_no(lab: Lab) -> None:
    node = await lab.node()
    lab.outside(node).execute(
        "CREATE TABLE d (k int, CONSTRAINT decision_pkey UNIQUE (k) DEFERRABLE INITIALLY DEFERRED)"
    )
    for home in (True, False):
        branch_id, branch = await lab.branch(node, home=home)
        await lab.do(branch.connection, "INSERT INTO d VALUES (1), (1)")
        answer = await (branch.decide({}) if home else branch.prepare())
        assert said(answer) == "no"
        assert "decision_pkey" in answer.reason
        assert answer.error is not None
        assert await node.decisions([branch_id.gid]) == {}


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("home", [True, False])
@scenario
async def test_a_failed_statement_makes_the_vote_no(lab: Lab, home: bool, remembered: bool) -> None:
    node = await lab.node()
    _, branch = await lab.branch(node, home=home)
    await lab.do(branch.connection, "INSERT INTO t VALUES (1)")
    with pytest.raises(Exception, match="division by zero"):
        await lab.do(branch.connection, "SELECT 1/0")
    if not remembered:
        # As if the failure had passed the guard unseen: the server's tag tells as well.
        branch._guard.failure = None
    assert said(await (branch.decide({}) if home else branch.prepare())) == "no"
    assert lab.keys(node) == []


@scenario
async def test_a_savepoint_undoes_a_failure(lab: Lab) -> None:
    node = await lab.node()
    _, branch = await lab.branch(node)
    await lab.do(branch.connection, "INSERT INTO t VALUES (1)")
    with pytest.raises(Exception, match="duplicate key"):
        await lab.nested(branch.connection, "INSERT INTO t VALUES (1)")
    assert said(await branch.prepare()) == "yes"
    assert await branch.commit() is Ended.DONE
    assert lab.keys(node) == [1]


@scenario
async def test_a_session_lost_before_the_vote(lab: Lab) -> None:
    node = await lab.node()
    _, branch = await lab.branch(node)
    await lab.do(branch.connection, "INSERT INTO t VALUES (1)")
    lab.terminate_all(node)
    assert said(await branch.prepare()) in ("unknown", "no")
    assert await branch.roll_back(prepared=True) is Ended.ABSENT
    assert lab.keys(node) == []


@pytest.mark.parametrize("commit", [True, False])
@scenario
async def test_another_session_finishes_what_a_lost_one_prepared(lab: Lab, commit: bool) -> None:
    node = await lab.node()
    _, branch = await lab.prepared(node)
    lab.terminate_all(node)
    assert await (branch.commit() if commit else branch.roll_back(prepared=True)) is Ended.DONE
    assert lab.keys(node) == ([1] if commit else [])


@scenario
async def test_a_prepare_whose_session_is_cut_is_unknown_and_can_be_ended(lab: Lab) -> None:
    node = await lab.node()
    outside = lab.outside(node)
    outside.execute(
        "CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END$$;"
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION wait_here(); SELECT pg_advisory_lock(1)"
    )
    _, branch = await lab.branch(node)
    await lab.do(branch.connection, "INSERT INTO t VALUES (1)")
    cutter = lab.when_waiting(node, branch.abandon)
    assert said(await branch.prepare()) == "unknown"
    cutter.join()
    # The server does not know yet that nobody listens: its PREPARE goes on until its session is ended.
    assert await branch.roll_back(prepared=True) is Ended.ABSENT
    outside.execute("SELECT pg_advisory_unlock(1)")
    assert (await node.prepared()).ours == ()
    assert lab.keys(node) == []


@scenario
async def test_a_prepared_branch_survives_the_death_of_the_server(lab: Lab, postgresql: PostgreSQLServer) -> None:
    node = await lab.node()
    branch_id, branch = await lab.prepared(node)
    await node.prepared()
    postgresql.kill()
    assert await branch.commit() is Ended.OWED
    with pytest.raises(NodeUnavailable):
        await node.prepared()
    postgresql.restart()
    assert [found.id for found in (await node.prepared()).ours] == [branch_id]
    assert await node.finish(branch_id, commit=True) is Ended.DONE
    assert lab.keys(node) == [1]
    _, branch = await lab.branch(node)
    assert await lab.rows(branch.connection, "SELECT k FROM t") == [(1,)]
    await branch.roll_back(prepared=False)


@scenario
async def test_a_probe_finds_a_committer_at_work(lab: Lab) -> None:
    node = await lab.node(lock_timeout_s=0.05)
    branch_id, branch = await lab.branch(node)
    await branch.roll_back(prepared=False)
    committer = lab.outside(node)
    committer.execute("BEGIN")
    committer.execute("INSERT INTO nodoubt.decision (gid, decision) VALUES (%s, 'committed')", (branch_id.gid,))
    other, unused = await lab.branch(node)
    await unused.roll_back(prepared=False)
    says = await node.probe([branch_id.gid, other.gid])
    assert says == {branch_id.gid: HomeSays.BUSY, other.gid: HomeSays.FRESH}
    committer.execute("COMMIT")
    assert await node.probe([branch_id.gid]) == {branch_id.gid: HomeSays.COMMITTED}


@scenario
async def test_evidence_tells_what_became_of_a_branch(lab: Lab) -> None:
    node = await lab.node()
    branch_id, branch = await lab.prepared(node)
    key = (branch_id.gid, branch_id.branch)
    assert await node.applied([key]) == set()
    await branch.commit()
    assert await node.applied([key]) == {key}
    assert await node.finish(branch_id, commit=True) is Ended.APPLIED
    await node.drop_evidence([branch_id.gid])
    assert await node.finish(branch_id, commit=True) is Ended.ABSENT


@scenario
async def test_a_database_says_who_it_is(lab: Lab) -> None:
    orders, stock = lab.database("postgresql"), lab.database("postgresql")
    with pytest.raises(ConfigError, match="nodoubt init"):
        await lab.make("orders", orders).open()
    await lab.node("orders", orders)
    await lab.node("stock", stock)
    with pytest.raises(ConfigError, match="'orders' reached the database that is node 'stock'"):
        await lab.make("orders", stock).open()


@scenario
async def test_a_server_that_forces_nothing_is_for_reading(lab: Lab) -> None:
    with PostgreSQLServer.start({"fsync": "off"}) as server:
        node = await lab.node(url=server.url)
        assert node.home_refusal
        with pytest.raises(ConfigError, match="'stock' cannot keep what it promises: fsync is off"):
            await lab.branch(node)
        await (await lab.branch(node, read_only=True))[1].roll_back(prepared=False)
        await node.close()


@scenario
async def test_a_server_that_prepares_nothing_says_so(lab: Lab) -> None:
    with PostgreSQLServer.start({"max_prepared_transactions": "0"}) as server:
        node = await lab.node(url=server.url)
        _, branch = await lab.branch(node)
        answer = await branch.prepare()
        assert said(answer) == "no"
        assert "prepared transactions are disabled" in answer.reason
        await node.close()


@scenario
async def test_a_full_pool_names_itself(lab: Lab) -> None:
    node = await lab.node(pool_size=1, acquire_timeout_s=0.05)
    _, branch = await lab.branch(node)
    with pytest.raises(NodeUnavailable, match="pool of node 'stock' is full: all 1 connections"):
        await lab.branch(node)
    await branch.roll_back(prepared=False)
    await (await lab.branch(node))[1].roll_back(prepared=False)


@pytest.mark.parametrize(
    ("statement", "kept"),
    [
        ("SELECT 1", True),
        ("SET LOCAL search_path = nowhere", True),
        ("SELECT 1 AS temp", True),
        ("SELECT 1 AS one INTO TEMP x", False),
        ("CREATE OR REPLACE TEMP VIEW x AS SELECT 1", False),
        ("SET search_path = nowhere", False),
        ("DO 'BEGIN PERFORM pg_advisory_lock(1); END'", False),
        ("CREATE TABLE pg_temp.x (k int)", False),
        ("SELECT \"set_config\"('search_path', 'nowhere', false)", False),
        ('SELECT "pg_advisory_lock"(1)', False),
    ],
)
@scenario
async def test_a_changed_session_serves_nobody_else(lab: Lab, statement: str, kept: bool) -> None:
    node = await lab.node()
    pids = []
    for _ in range(2):
        _, branch = await lab.branch(node, home=True)
        pids += await lab.rows(branch.connection, "SELECT pg_backend_pid()")
        await lab.do(branch.connection, statement)
        assert said(await branch.decide({})) == "yes"
    assert (pids[0] == pids[1]) is kept


@scenario
async def test_why_a_login_fails(lab: Lab, postgresql: PostgreSQLServer) -> None:
    url = lab.database("postgresql")
    for wrong in (url.replace("postgres@", "nobody@"), f"{url}_missing"):
        with pytest.raises(ConfigError, match="does not exist"):
            await lab.make("stock", wrong).open()
    with pytest.raises(NodeUnavailable):
        await lab.make("stock", url.replace(str(postgresql.port), "1")).open()
    with pytest.raises(ConfigError, match="nonsense") as told:
        await lab.make("stock", url, options={"nonsense": "1"}).open()
    assert "the node's options" in told.value.hint
