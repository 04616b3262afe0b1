"""Live transactions over nodes in memory: every lost answer, refusal and crash, and what the caller is told."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from unittest.mock import AsyncMock

import pytest

from nodoubt.engine.work import Work
from nodoubt.errors import Aborted
from nodoubt.nodes.contract import Finding
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.failures import ConnectionLost
from nodoubt.nodes.memory import MemoryDialect
from nodoubt.nodes.memory_calls import Call, Fate
from nodoubt.nodes.memory_packets import BRANCH, DECISION
from tests.engine.stage import NAMES, Stage, Trouble, told

ALL = set(NAMES)
GONE: set[str] = set()

#: (call, node, fate) -> what the caller is told, who is pending, and where the row is in the end.
SCENARIOS = {
    ("prepare", "left", Fate.REFUSED): ("Aborted", (), GONE),
    ("prepare", "left", Fate.LOST): ("Aborted", (), GONE),
    ("prepare", "left", Fate.UNHEARD): ("Aborted", (), GONE),
    ("prepare", "left", Fate.CRASH): ("Aborted", ("left",), GONE),
    ("prepare", "left", Fate.CRASH_AFTER): ("Aborted", ("left",), GONE),
    ("decide", "home", Fate.REFUSED): ("Aborted", (), GONE),
    ("decide", "home", Fate.LOST): ("Aborted", (), GONE),
    ("decide", "home", Fate.UNHEARD): ("committed", (), ALL),
    ("decide", "home", Fate.CRASH): ("OutcomeUnknown", ("home", "left", "right"), GONE),
    ("decide", "home", Fate.CRASH_AFTER): ("OutcomeUnknown", ("home", "left", "right"), ALL),
    ("finish", "left", Fate.REFUSED): ("committed", (), ALL),
    ("finish", "left", Fate.LOST): ("committed", (), ALL),
    ("finish", "left", Fate.UNHEARD): ("committed", (), ALL),
    ("finish", "left", Fate.CRASH): ("committed", ("left",), ALL),
    ("finish", "left", Fate.CRASH_AFTER): ("committed", ("left",), ALL),
}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: f"{s[0]} {s[2].name}")
async def test_one_trouble(scenario: tuple[str, str, Fate]) -> None:
    call, node, fate = scenario
    expected, pending, written = SCENARIOS[scenario]
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    work = await stage.write(engine)
    stage.trouble(Trouble(node=node, call=call, fate=fate))
    assert await told(work) == expected
    assert work.outcome.pending == pending
    assert not engine.live
    stage.heal()
    await ends(stage, work.gid, written)


@pytest.mark.parametrize(
    ("fate", "expected", "written"),
    [
        (Fate.FINE, "committed", {"home"}),
        (Fate.REFUSED, "Aborted", GONE),
        (Fate.LOST, "Aborted", GONE),
        (Fate.UNHEARD, "committed", {"home"}),
        (Fate.CRASH, "OutcomeUnknown", GONE),
        (Fate.CRASH_AFTER, "OutcomeUnknown", {"home"}),
    ],
)
async def test_one_node_alone(fate: Fate, expected: str, written: set[str]) -> None:
    stage = Stage("home")
    await stage.install()
    engine = await stage.process()
    work = await stage.write(engine)
    stage.trouble(Trouble(node="home", call="decide", fate=fate))
    assert await told(work) == expected
    stage.heal()
    if expected == "OutcomeUnknown" and not written:
        # Nothing is left behind that would bring anybody else to ask.
        assert (await (await stage.process()).outcome(work.gid)).state == "unknown"
        await engine.settle()
    await ends(stage, work.gid, written)


@pytest.mark.parametrize(("node", "call"), [("left", "prepare"), ("home", "decide")])
async def test_an_abort_by_a_lost_connection_is_retryable(node: str, call: str) -> None:
    stage = Stage()
    await stage.install()
    work = await stage.write(await stage.process())
    stage.trouble(Trouble(node=node, call=call, fate=Fate.LOST))
    with pytest.raises(Aborted) as caught:
        await work.commit()
    assert caught.value.retryable


async def test_what_is_handed_over_keeps_no_connection() -> None:
    """Else each transaction that home leaves without an answer would take a connection of every other node for good."""
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    for number in range(NodeSettings(url="").pool_size + 1):
        work = await stage.write(engine, key=f"key {number}")
        stage.trouble(Trouble(node="home", call="decide", fate=Fate.CRASH))
        assert await told(work) == "OutcomeUnknown"
        stage.heal()


def _two_troubles() -> Iterator[tuple[Trouble, Trouble]]:
    fates = [fate for fate in Fate if fate not in (Fate.FINE, Fate.HELD)]
    places = [("left", "prepare"), ("home", "decide"), ("home", "probe"), ("left", "finish"), ("right", "finish")]
    for (one, two), first, second in itertools.product(itertools.combinations(places, 2), fates, fates):
        yield Trouble(node=one[0], call=one[1], fate=first), Trouble(node=two[0], call=two[1], fate=second)


async def test_any_two_troubles_end_alike_everywhere() -> None:
    """Whatever the caller is told is true in the end, and nothing is left behind."""
    for one, two in _two_troubles():
        stage = Stage()
        await stage.install()
        work = await stage.write(await stage.process())
        stage.trouble(one, two)
        answer = await told(work)
        stage.heal()
        written = ALL if stage.decision(work.gid) in (("committed", False), ("committed", True)) else GONE
        assert (answer, written) in (("committed", ALL), ("Aborted", GONE), ("OutcomeUnknown", written)), (one, two)
        await ends(stage, work.gid, written)


async def test_nothing_in_the_way() -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    work = await stage.write(engine)
    assert await told(work) == "committed"
    assert (work.outcome.pending, work.outcome.strays) == ((), ())
    assert stage.decision(work.gid) == ("committed", False)
    await engine.flush()
    assert stage.decision(work.gid) == ("committed", True)
    assert not any(database.tables[BRANCH] for database in stage.databases.values())
    await ends(stage, work.gid, ALL)


async def test_rolled_back_by_the_caller() -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    work = await stage.write(engine)
    await work.roll_back("changed my mind")
    assert (work.outcome.state, work.outcome.reason) == ("aborted", "changed my mind")
    assert stage.decision(work.gid) is None
    assert stage.written() == GONE
    assert not stage.prepared()


async def test_the_background_asks_again_whether_commits_are_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may switch it off, and on again, beneath an open manager. A node that does not answer stops nothing."""
    stage = Stage()
    await stage.install()
    engine = await stage.process(purge_every_s=60.0)
    unforced = Finding(check="durable", level="error", text="nothing is forced")
    durable = AsyncMock(side_effect=[ConnectionLost("silent"), [unforced], [unforced], [], [], []])
    monkeypatch.setattr(MemoryDialect, "durable", durable)
    for refusing in ((), ("left", "right"), ()):
        await engine.tend()
        assert [name for name, node in engine.nodes.items() if node.home_refusal] == list(refusing)
        monkeypatch.setattr(engine, "_next_purge", 0.0)


@pytest.mark.parametrize(("is_purged", "expected"), [(False, "committed"), (True, "OutcomeUnknown")])
async def test_hours_asleep_behind_a_decision_that_was_not_answered(
    is_purged: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have settled and perhaps purged it: home is only read, and that it has no row means nothing."""
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    work = await stage.write(engine)
    now_ms, home = stage.world.unix_ms(), stage.databases["home"]

    def faults(call: Call) -> Fate:
        if call.name == "decide":
            monkeypatch.setattr(stage.world, "unix_ms", lambda: now_ms + int(engine.settings.retention_s * 1000))
            return Fate.UNHEARD
        if is_purged:
            home.tables[DECISION].pop(work.gid, None)
        return Fate.FINE

    home.faults = faults
    assert await told(work) == expected
    assert stage.decision(work.gid) == (None if is_purged else ("committed", False)), "no tombstone"


async def test_a_tombstone_between_prepare_and_decide() -> None:
    """A settler lost its patience with a slow owner: the owner must abort."""
    stage = Stage()
    await stage.install()
    work = await stage.write(await stage.process())
    stage.on_call("home", "decide", lambda: stage.decide(work.gid, "{}", decision="aborted"))
    assert await told(work) == "Aborted"
    assert work.outcome.pending == ()
    stage.heal()
    await ends(stage, work.gid, GONE)


async def test_a_settler_ends_everything_between_prepare_and_decide() -> None:
    """As above, and the settler has rolled the branches back already."""
    stage = Stage()
    await stage.install()
    work = await stage.write(await stage.process())

    def settle() -> None:
        stage.decide(work.gid, "{}", decision="aborted")
        stage.databases["left"].prepared.clear()
        stage.databases["right"].prepared.clear()

    stage.on_call("home", "decide", settle)
    assert await told(work) == "Aborted"
    await ends(stage, work.gid, GONE)


@pytest.mark.parametrize("evidence", [True, False])
async def test_finished_by_hand_against_the_decision(evidence: bool) -> None:
    """Rolled back by an administrator before our commit came: a stray, unless evidence shows that it was a commit."""
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    work = await stage.write(engine)
    left = stage.databases["left"]

    def by_hand() -> None:
        (name,) = left.prepared
        written = left.prepared.pop(name)
        if evidence:
            left.tables[BRANCH].update({key: row for (table, key), row in written.writes.items() if table == BRANCH})

    stage.on_call("left", "finish", by_hand)
    assert await told(work) == ("committed" if evidence else "HeuristicOutcome")
    assert work.outcome.state == "committed"
    assert work.outcome.strays == (() if evidence else ("left",))
    if not evidence:
        report = await engine.settle(grace_s=0)
        assert [(doubt.gid, doubt.node) for doubt in report.strays] == [(work.gid, "left")]
        assert stage.decision(work.gid) == ("committed", False)


async def test_owed_work_is_settled_without_waiting_for_the_grace_period() -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process(grace_s=3600.0)
    nudges: list[str] = []
    engine.nudge = lambda: nudges.append("now")
    work = await stage.write(engine)
    stage.trouble(Trouble(node="left", call="finish", fate=Fate.CRASH))
    assert await told(work) == "committed"
    assert nudges == ["now"]
    assert "left" in (await engine.settle()).unreachable
    stage.heal()
    assert (await engine.settle()).committed == 1
    assert stage.written() == ALL
    assert stage.decision(work.gid) == ("committed", True)


async def test_a_full_node_dooms_the_transaction() -> None:
    """A block that swallows the error of ``on`` cannot commit half of what it meant to do."""
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    work = engine.begin()
    await (await work.on("home")).put("fact", "key", "value")
    stage.databases["left"].stop()
    assert await _refused(work.on("left"))
    assert await told(work) == "NodeUnavailable"
    assert work.outcome.state == "aborted"
    assert stage.written() == GONE


async def _opening_home(timeout_s: float | None = None) -> tuple[Stage, Work, asyncio.Task[str]]:
    """A transaction that commits, and waits for its home, which has no other part in it."""
    stage, waits = Stage(), asyncio.Event()
    await stage.install()
    work = (await stage.process()).begin(home="home", timeout_s=timeout_s)
    await (await work.on("left")).put("fact", "key", "value")

    def faults(call: Call) -> Fate:
        waits.set()
        return Fate.HELD

    stage.databases["home"].faults = faults
    commit = asyncio.create_task(told(work))
    await waits.wait()
    return stage, work, commit


async def test_the_deadline_passes_while_home_is_opened() -> None:
    stage, work, commit = await _opening_home(timeout_s=0.02)
    expired = asyncio.Event()
    work.interrupt = expired.set
    await expired.wait()
    stage.heal()
    assert await commit == "Aborted"
    await ends(stage, work.gid, GONE)


async def test_rolled_back_by_another_task_while_it_commits() -> None:
    stage, work, commit = await _opening_home()
    await work.roll_back("too late")
    stage.heal()
    assert await commit == "committed"
    await ends(stage, work.gid, {"left"})


async def test_a_read_only_branch_has_no_part_in_the_decision() -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    work = engine.begin()
    assert await (await work.on("left", read_only=True)).get("fact", "key") is None
    await (await work.on("right")).put("fact", "key", "value")
    assert await told(work) == "committed"
    assert stage.written() == {"right"}
    assert await told(engine.begin()) == "committed"


async def test_the_errors_say_whether_to_try_again() -> None:
    stage = Stage()
    await stage.install()
    work = await stage.write(await stage.process())
    stage.trouble(Trouble(node="left", call="prepare", fate=Fate.REFUSED))
    with pytest.raises(Aborted, match="refused on purpose") as caught:
        await work.commit()
    assert caught.value.retryable
    assert caught.value.__cause__ is not None


async def _refused(step: object) -> bool:
    try:
        await step  # type: ignore[misc]
    except Exception:
        return True
    return False


async def ends(stage: Stage, gid: str, written: set[str]) -> None:
    """Settled by another process, everything agrees; settling again changes nothing."""
    other = await stage.process()
    report = await other.settle(grace_s=0)
    assert (report.strays, report.unreachable) == ([], {})
    assert stage.written() == written
    assert not stage.prepared()
    assert stage.decision(gid) in ((None, ("aborted", False)) if not written else (("committed", True),))
    before = stage.snapshot()
    again = await other.settle(grace_s=0)
    assert (again.settled, again.completed, again.waiting) == (0, 0, [])
    assert stage.snapshot() == before
