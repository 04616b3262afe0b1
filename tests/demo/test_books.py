"""The audit must be able to fail: each way to lose money is shown to it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nodoubt.demo import bank, killer
from nodoubt.demo.bank import Leg, draw_transfer
from nodoubt.demo.plain import PlainSession, connect
from nodoubt.demo.report import Result
from nodoubt.errors import ConfigError, NodeUnavailable
from nodoubt.nodes.dialect import NodeSettings

NODES = ("a", "b", "c")
Sessions = dict[str, PlainSession]


@pytest.fixture
async def sessions(tmp_path: Path) -> AsyncIterator[Sessions]:
    """A bank on three SQLite files."""
    sessions = {node: await connect(node, NodeSettings(url=f"sqlite:///{tmp_path / node}.db")) for node in NODES}
    for session in sessions.values():
        await bank.found(session)
    yield sessions
    for session in sessions.values():
        await session.close()


async def book(sessions: Sessions, gid: str, *legs: Leg) -> None:
    for leg in legs:
        for text in bank.leg_texts(gid, leg):
            await sessions[leg.node].command(text)


TAKE, GIVE = Leg(node="a", account=1, delta=-70), Leg(node="b", account=2, delta=70)


async def test_an_untouched_bank_is_in_order(sessions: Sessions) -> None:
    books = await bank.audit(sessions)
    assert books.total == 3 * bank.ACCOUNTS_PER_NODE * bank.OPENING_BALANCE
    assert (books.halves, books.wrong, books.transfers) == ([], [], {})


async def test_a_whole_transfer_is_in_order(sessions: Sessions) -> None:
    before = (await bank.audit(sessions)).total
    await book(sessions, "g1", TAKE, GIVE)
    books = await bank.audit(sessions)
    assert books.total == before
    assert (books.halves, books.wrong, books.missing(["g1"])) == ([], [], [])


async def test_half_a_transfer_is_found(sessions: Sessions) -> None:
    before = (await bank.audit(sessions)).total
    await book(sessions, "g1", TAKE)
    books = await bank.audit(sessions)
    assert books.total == before - 70
    assert books.halves == ["g1"]


async def test_two_halves_that_hide_each_other_in_the_total_are_found(sessions: Sessions) -> None:
    before = (await bank.audit(sessions)).total
    await book(sessions, "g1", TAKE)
    await book(sessions, "g2", GIVE)
    books = await bank.audit(sessions)
    assert books.total == before
    assert books.halves == ["g1", "g2"]


async def test_a_transfer_that_was_reported_and_is_nowhere_is_found(sessions: Sessions) -> None:
    await book(sessions, "g1", TAKE, GIVE)
    assert (await bank.audit(sessions)).missing(["g1", "g2"]) == ["g2"]


@pytest.mark.parametrize(
    ("statement", "difference"),
    [
        (f"UPDATE {bank.ACCOUNTS} SET balance = balance + 5 WHERE id = 7", 5),
        (f"DELETE FROM {bank.ACCOUNTS} WHERE id = 7", -bank.OPENING_BALANCE),
    ],
)
async def test_money_that_somebody_else_moved_is_found(sessions: Sessions, statement: str, difference: int) -> None:
    await sessions["b"].command(statement)
    assert (await bank.audit(sessions)).wrong == [("b", 7, difference)]


async def test_tables_of_strangers_are_left_alone(sessions: Sessions) -> None:
    session = sessions["a"]
    await bank.demolish(session)
    await bank.check_vacant(session, "a", replace=False)
    await session.command(f"CREATE TABLE {bank.ACCOUNTS} (id integer)")
    for replace in (False, True):
        with pytest.raises(ConfigError, match=bank.ACCOUNTS):
            await bank.check_vacant(session, "a", replace=replace)


async def test_tables_of_a_demo_are_replaced_when_it_is_over_or_when_told(sessions: Sessions) -> None:
    session = sessions["a"]
    with pytest.raises(ConfigError, match="--replace"):
        await bank.check_vacant(session, "a", replace=False)
    await bank.check_vacant(session, "a", replace=True)
    await bank.keep(session)
    await bank.check_vacant(session, "a", replace=False)


async def test_a_plain_connection_names_its_node_when_it_fails(sessions: Sessions, tmp_path: Path) -> None:
    with pytest.raises(NodeUnavailable, match="node 'a'"):
        await sessions["a"].query("SELECT 1 FROM nowhere")
    with pytest.raises(NodeUnavailable, match="node 'x'"):
        await connect("x", NodeSettings(url=f"sqlite:///{tmp_path}/no/such/folder/x.db"))


def test_every_transfer_moves_money_between_nodes_and_makes_none() -> None:
    dice = random.Random(1)
    transfers = [draw_transfer(NODES, dice) for _ in range(500)]
    for legs in transfers:
        nodes = [leg.node for leg in legs]
        assert nodes == sorted(set(nodes))
        assert sum(leg.delta for leg in legs) == 0
    assert {len(legs) for legs in transfers} == {2, 3}
    assert {len(draw_transfer(NODES[:2], dice)) for _ in range(50)} == {2}


@pytest.mark.parametrize("seed", range(20))
def test_kills_are_spread_over_the_run_and_half_of_them_hit_a_commit(seed: int) -> None:
    plan = killer.plan(10, 8.0, random.Random(seed), unprotected=False)
    assert plan == killer.plan(10, 8.0, random.Random(seed), unprotected=False)
    moments = [kill.at_s for kill in plan]
    assert moments == sorted(moments)
    assert 0 < moments[0] < moments[-1] < 8
    assert sum(kill.point is None for kill in plan) == 5
    assert any(kill.point in killer.IN_DOUBT for kill in plan)


def test_one_kill_is_one_in_a_commit_and_none_is_none() -> None:
    (kill,) = killer.plan(1, 8.0, random.Random(1), unprotected=True)
    assert kill.point == killer.BETWEEN
    assert killer.plan(0, 8.0, random.Random(1), unprotected=True) == []


def result(**changes: object) -> Result:
    known: dict[str, object] = {
        "unprotected": False,
        "nodes": {"a": "sqlite", "b": "sqlite"},
        "workers": 2,
        "seed": 1,
        "seconds": 2.0,
        "kills": 1,
        "kills_at": {"order Decide": 1},
        "transactions": 10,
        "aborted": 0,
        "unknown": 0,
        "settled": 1,
        "total_before": 1000,
        "total_after": 1000,
    }
    return Result(**{**known, **changes})  # type: ignore[arg-type]


def test_a_good_result_says_so() -> None:
    good = result()
    assert good.ok
    assert "Nothing lost, nothing in doubt." in good.as_text()
    assert "1 with all branches prepared, before the decision" in good.as_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"total_after": 930}, "LOST: 70 MISSING"),
        ({"total_after": 1070}, "LOST: 70 TOO MUCH"),
        ({"total_after": None}, "NOT KNOWN"),
        ({"halves": ["g1", "g2"]}, "by halves: g1, g2"),
        ({"missing": ["g1"]}, "nowhere: g1"),
        ({"wrong": [("a", 7, 5)]}, r"account 7 on a (+5)"),
        ({"pending": ["node 'a' does not answer"]}, "pending: node 'a' does not answer"),
        ({"failure": "the workers cannot go on"}, "CUT SHORT"),
    ],
)
def test_a_bad_result_says_what_is_bad(changes: dict[str, object], words: str) -> None:
    bad = result(**changes)
    assert not bad.ok
    assert words in bad.as_text()
    assert "Nothing lost" not in bad.as_text()
    assert bad.as_json()["ok"] is False
