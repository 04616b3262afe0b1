"""Settling on nodes in memory: what others left, in every state in which they can have left it."""

from __future__ import annotations

import pytest

from nodoubt.engine.settle import SettleReport
from nodoubt.nodes.memory_calls import Fate
from nodoubt.nodes.memory_packets import BRANCH, DECISION
from nodoubt.protocol.ids import BranchId, new_gid
from nodoubt.protocol.verdicts import HomeSays
from tests.engine.stage import DOMAIN, Stage, Trouble, told

ALL = {"home", "left", "right"}
BOTH = '{"1":"left","2":"right"}'


async def installed(*names: str) -> Stage:
    stage = Stage(*names)
    await stage.install()
    return stage


def leave_both(stage: Stage, *, age_s: float = 3600.0) -> str:
    """Branches 1 and 2 of a transaction, prepared; returns its gid."""
    gid = stage.leave("left", 1, age_s=age_s)
    return stage.leave("right", 2, gid=gid, age_s=age_s)


async def test_undecided_is_rolled_back() -> None:
    stage = await installed()
    gid = leave_both(stage)
    report = await (await stage.process()).settle()
    assert (report.rolled_back, report.committed, report.waiting) == (2, 0, [])
    assert stage.decision(gid) == ("aborted", False)
    assert not stage.prepared()
    assert not stage.written()


async def test_decided_is_committed_and_completed() -> None:
    stage = await installed()
    gid = leave_both(stage)
    stage.decide(gid, BOTH)
    report = await (await stage.process()).settle()
    assert (report.committed, report.completed) == (2, 1)
    assert stage.decision(gid) == ("committed", True)
    assert stage.written() == {"left", "right"}
    assert not any(database.tables[BRANCH] for database in stage.databases.values())


async def test_a_branch_that_its_decision_names_by_another_node_is_finished_where_it_is() -> None:
    """The node was called otherwise before, perhaps."""
    stage = await installed()
    gid = leave_both(stage)
    stage.decide(gid, BOTH.replace("left", "formerly"))
    report = await (await stage.process()).settle()
    assert (report.committed, report.completed) == (2, 1)
    assert stage.written() == {"left", "right"}


async def test_a_decision_of_the_future_is_not_young_for_ever() -> None:
    """The clock of home was set back since it was decided (recovery rule 8); found by simulation, seed 87."""
    stage = await installed()
    gid = leave_both(stage)
    stage.decide(gid, BOTH)
    stage.databases["home"].tables[DECISION][gid][3] += 2 * 3600
    engine = await stage.process()
    assert (await engine.settle(grace_s=0)).completed == 1


async def test_complete_comes_before_evidence_is_dropped() -> None:
    """Whoever finds evidence gone must be able to read that it had done its work."""
    stage = await installed()
    gid = leave_both(stage)
    stage.decide(gid, BOTH)
    stage.trouble(Trouble(node="home", call="complete", fate=Fate.LOST))
    report = await (await stage.process()).settle()
    assert report.committed == 2
    assert report.completed == 0
    assert stage.decision(gid) == ("committed", False)
    assert stage.databases["left"].tables[BRANCH]
    assert (await (await stage.process()).settle()).completed == 1
    assert not stage.databases["left"].tables[BRANCH]


async def test_evidence_that_cannot_be_dropped_is_nobodys_failure() -> None:
    """It is purged one day; the decision is complete, and others' evidence goes."""
    stage = await installed()
    stage.decide(leave_both(stage), BOTH)
    stage.trouble(Trouble(node="left", call="drop-evidence", fate=Fate.LOST))
    report = await (await stage.process()).settle()
    assert (report.completed, report.unreachable) == (1, {})
    assert stage.databases["left"].tables[BRANCH]
    assert not stage.databases["right"].tables[BRANCH]


@pytest.mark.parametrize("decided", [True, False])
async def test_settling_twice_changes_nothing(decided: bool) -> None:
    stage = await installed()
    gid = leave_both(stage)
    if decided:
        stage.decide(gid, BOTH)
    engine = await stage.process()
    assert (await engine.settle()).settled == 2
    before = stage.snapshot()
    again = await engine.settle()
    assert (again.settled, again.completed, again.waiting, again.strays) == (0, 0, [], [])
    assert stage.snapshot() == before


@pytest.mark.parametrize("decided", [True, False])
@pytest.mark.parametrize(
    ("node", "call"),
    [
        ("home", "probe"),
        ("left", "list"),
        ("left", "finish"),
        ("right", "finish"),
        ("left", "rows"),
        ("home", "rows"),
        ("home", "complete"),
        ("left", "drop-evidence"),
    ],
)
async def test_two_settlers_at_once(decided: bool, node: str, call: str) -> None:
    """One stops just before a call, the other does all of its work, then the first goes on: no harm, and no false alarm."""
    stage = await installed()
    gid = leave_both(stage)
    if decided:
        stage.decide(gid, BOTH)
    first, second = await stage.process(), await stage.process()
    stage.trouble(Trouble(node=node, call=call, fate=Fate.HELD))

    async def other() -> SettleReport:
        report = await second.settle()
        stage.heal()
        return report

    reports = await stage.world.together([first.settle(), other()])
    assert [report.strays for report in reports] == [[], []]
    assert stage.decision(gid) == (("committed", True) if decided else ("aborted", False))
    assert stage.written() == ({"left", "right"} if decided else set())
    assert not stage.prepared()


async def test_finished_by_another_settler_while_we_look() -> None:
    """The other one completes the row and drops the evidence between our question to home and our look at the evidence."""
    stage = await installed()
    gid = stage.leave("left")
    stage.decide(gid, '{"1":"left"}')
    stage.databases["left"].prepared.clear()

    def complete() -> None:
        stage.decide(gid, '{"1":"left"}', complete=True)

    engine = await stage.process()
    stage.on_call("left", "rows", complete)
    report = await engine.settle(grace_s=0)
    assert report.strays == []


async def test_decided_by_a_live_owner_while_we_look() -> None:
    """Prepared after our list was read and decided before home was asked: not a stray, however short the grace period."""
    stage = await installed()
    gids: list[str] = []

    def decide() -> None:
        gids.append(stage.leave("left", age_s=0))
        stage.decide(gids[0], '{"1":"left"}')

    engine = await stage.process()
    stage.on_call("home", "now", decide)
    report = await engine.settle(grace_s=0)
    assert report.strays == []
    assert (await engine.settle(grace_s=0)).strays == []
    assert stage.decision(gids[0]) == ("committed", True)
    assert stage.written() == {"left"}


async def test_the_grace_period_keeps_the_young() -> None:
    stage = await installed()
    young, old = leave_both(stage, age_s=5), stage.leave("left", 3)
    # Finished just now, and not marked complete yet.
    finished = new_gid(stage.world.unix_ms(), bytes(10))
    stage.databases["home"].tables[DECISION][finished] = ["committed", '{"1":"left"}', False, stage.world.now(), ""]
    engine = await stage.process()
    report = await engine.settle(grace_s=30)
    assert (report.young, report.waiting, report.rolled_back) == (2, [], 1)
    assert stage.decision(young) is None
    assert stage.decision(old) == ("aborted", False)
    assert sorted(stage.prepared()) == ["left", "right"]
    assert (await engine.settle(grace_s=1)).rolled_back == 2


async def test_a_live_transaction_is_left_alone() -> None:
    stage = await installed()
    engine = await stage.process()
    work = await stage.write(engine)
    report: list[SettleReport] = []

    async def settle() -> str:
        report.append(await engine.settle(grace_s=0))
        stage.heal()
        return "settled"

    stage.trouble(Trouble(node="home", call="decide", fate=Fate.HELD))
    answers = await stage.world.together([told(work), settle()])
    assert answers == ["committed", "settled"]
    assert (report[0].settled, report[0].waiting) == (0, [])
    assert stage.written() == ALL


async def test_a_slow_owner_against_a_hasty_settler() -> None:
    """Another process without patience: the owner's decision collides with its tombstone, or wins."""
    stage = await installed()
    work = await stage.write(await stage.process())
    hasty = await stage.process()

    async def settle() -> str:
        while len(stage.prepared()) < 2:
            await stage.world.sleep(0)
        await hasty.settle(grace_s=0)
        stage.heal()
        return "settled"

    stage.trouble(Trouble(node="home", call="decide", fate=Fate.HELD))
    assert await stage.world.together([told(work), settle()]) == ["Aborted", "settled"]
    assert stage.written() == set()
    assert not stage.prepared()


async def test_a_node_that_is_down_blocks_no_other() -> None:
    stage = await installed()
    gid, lone = leave_both(stage), stage.leave("right", 3)
    stage.decide(gid, BOTH)
    stage.databases["left"].stop()
    engine = await stage.process("home", "right")
    engine.nodes = {**engine.nodes, "left": stage.node("left")}
    engine._settler._nodes = engine.nodes
    report = await engine.settle()
    assert set(report.unreachable) == {"left"}
    assert (report.committed, report.rolled_back, report.completed) == (1, 1, 0)
    assert [(doubt.gid, doubt.node, doubt.case) for doubt in report.waiting] == [(gid, "left", "node-silent")]
    assert stage.decision(lone) == ("aborted", False)
    assert stage.decision(gid) == ("committed", False)
    stage.heal()
    report = await engine.settle()
    assert (report.committed, report.completed, report.unreachable) == (1, 1, {})


async def test_a_home_that_is_down_keeps_its_branches_in_doubt() -> None:
    stage = await installed()
    gid = leave_both(stage)
    engine = await stage.process()
    stage.databases["home"].stop()
    report = await engine.settle()
    assert set(report.unreachable) == {"home"}
    assert {(doubt.gid, doubt.case) for doubt in report.waiting} == {(gid, "home-silent")}
    assert len(stage.prepared()) == 2
    stage.heal()
    assert (await engine.settle()).rolled_back == 2


async def test_a_home_that_nobody_knows_is_reported_and_kept() -> None:
    stage = await installed()
    gid = stage.leave("left", home="elsewhere")
    engine = await stage.process()
    for _ in range(2):
        report = await engine.settle()
        assert [(doubt.gid, doubt.case) for doubt in report.strays] == [(gid, "home-unknown")]
    assert list(stage.prepared()) == ["left"]


async def test_a_broken_decision_is_quarantined() -> None:
    stage = await installed()
    broken, fine = stage.leave("left", 1), stage.leave("left", 2)
    stage.decide(broken, "not JSON")
    report = await (await stage.process()).settle()
    assert [(doubt.gid, doubt.case) for doubt in report.strays] == [(broken, "home-broken")]
    assert report.rolled_back == 1
    assert stage.decision(fine) == ("aborted", False)
    assert len(stage.databases["left"].prepared) == 1


async def test_a_person_replaces_a_broken_decision() -> None:
    stage = await installed()
    gid = stage.leave("left")
    stage.decide(gid, "not JSON at all")
    engine = await stage.process()
    assert await engine.nodes["home"].resolve(gid, commit=True, reason="seen in the log") is HomeSays.COMMITTED
    assert (await engine.settle()).committed == 1
    assert stage.written() == {"left"}


@pytest.mark.parametrize(
    ("decision", "evidence", "case"),
    [("committed", False, "rolled-back-by-hand"), ("committed", True, ""), ("aborted", False, "")],
)
async def test_finished_by_hand_is_reported_until_a_person_looked(decision: str, evidence: bool, case: str) -> None:
    stage = await installed()
    gid = stage.leave("left")
    stage.decide(gid, '{"1":"left"}', decision=decision)
    stage.databases["left"].prepared.clear()
    if evidence:
        stage.databases["left"].tables[BRANCH][f"{gid} 1"] = True
    engine = await stage.process()
    for _ in range(2):
        report = await engine.settle()
        assert [doubt.case for doubt in report.strays] == ([case] if case else [])
    if evidence:
        assert stage.decision(gid) == ("committed", True)


async def test_foreign_branches_are_counted() -> None:
    stage = await installed()
    gid = stage.leave("left")
    left = stage.databases["left"].prepared
    (written,) = left.values()
    left.clear()
    left[BranchId(domain="stranger", gid=gid, branch=1, home="home").text()] = written
    left["somebody else's"] = written
    report = await (await stage.process()).settle()
    assert report.foreign == {"left": 2}
    assert (report.settled, report.waiting, report.strays) == (0, [], [])
    assert len(left) == 2


async def test_a_late_prepare_finds_the_tombstone() -> None:
    """The packet was on its way when its owner was settled (recovery rule 3): found by the next round, and rolled back."""
    stage = await installed()
    gid = stage.leave("right", 2)
    engine = await stage.process()
    await engine.settle()
    stage.leave("left", 1, gid=gid)
    assert (await engine.settle()).rolled_back == 1
    assert not stage.prepared()


async def test_looking_touches_nothing() -> None:
    stage = await installed()
    gid = leave_both(stage)
    before = stage.snapshot()
    doubts = await (await stage.process()).in_doubt()
    assert {(doubt.gid, doubt.node) for doubt in doubts} == {(gid, "left"), (gid, "right")}
    after = stage.snapshot()
    assert (after["home"][0].get(DECISION) or {}) == (before["home"][0].get(DECISION) or {})
    assert {name: listed for name, (_, listed) in after.items()} == {
        name: listed for name, (_, listed) in before.items()
    }


async def test_the_outcome_of_any_gid() -> None:
    stage = await installed()
    engine = await stage.process()
    gid = leave_both(stage)
    assert (await engine.outcome(gid)).state == "unknown"
    stage.decide(gid, BOTH)
    outcome = await engine.outcome(gid)
    assert (outcome.state, outcome.pending) == ("committed", ("left", "right"))
    await engine.settle()
    outcome = await engine.outcome(gid)
    assert (outcome.state, outcome.pending) == ("committed", ())
    assert engine.domain == DOMAIN
