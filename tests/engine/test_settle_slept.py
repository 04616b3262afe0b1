"""What a round of settling must not conclude from what it has not heard, or no more when it slept in the middle.

While it sleeps others carry out what it was looking at, and purge it. Home holds no decision afterwards, as if there had never
been one: a tombstone would tell that what was committed is aborted.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nodoubt.engine.engine import Engine
from nodoubt.engine.moments import Moment
from nodoubt.nodes.contract import PROBE_S_MAX
from nodoubt.nodes.memory_calls import Fate
from nodoubt.nodes.memory_packets import DECISION
from nodoubt.protocol.ids import new_gid, parse_text
from tests.engine.stage import Stage, Trouble

ONE = '{"1":"left"}'


async def installed() -> tuple[Stage, Engine]:
    stage = Stage()
    await stage.install()
    return stage, await stage.process()


@pytest.fixture(params=["unix_ms", "now"])
def clock(request: pytest.FixtureRequest) -> str:
    """The clock that shows how long it was: the other was set back, or stood still."""
    name: str = request.param
    return name


def asleep(stage: Stage, engine: Engine, clock: str, gid: str) -> Callable[[], None]:
    """What happens meanwhile: ``gid`` is carried out and purged, and the retention passes."""
    passed = engine.settings.retention_s * (1000 if clock == "unix_ms" else 1)
    before = getattr(stage.world, clock)()

    def sleep() -> None:
        stage.databases["left"].prepared.clear()
        stage.databases["home"].tables[DECISION].pop(gid, None)
        setattr(stage.world, clock, lambda: before + passed)

    return sleep


async def test_behind_a_decision_that_was_read() -> None:
    """However short the sleep was: that the row was there is enough."""
    stage, engine = await installed()
    gid = stage.leave("left")
    stage.decide(gid, ONE)

    def purge() -> None:
        stage.databases["left"].prepared.clear()
        del stage.databases["home"].tables[DECISION][gid]

    stage.on_call("left", "list", purge)
    report = await engine.settle(grace_s=0)
    assert stage.decision(gid) is None, "a tombstone for what was committed"
    assert [doubt.case for doubt in report.waiting] == ["home-silent"]
    assert (await engine.settle(grace_s=0)).waiting == []


async def test_behind_a_decision_that_was_seen_and_lost() -> None:
    """A branch that is still prepared is nobody's by then: the next round aborts it."""
    stage, engine = await installed()
    gid = stage.leave("left")
    stage.decide(gid, ONE)
    stage.on_call("left", "list", stage.databases["home"].tables[DECISION].clear)
    assert (await engine.settle(grace_s=0)).settled == 0
    assert (await engine.settle(grace_s=0)).rolled_back == 1
    assert stage.decision(gid) == ("aborted", False)


async def test_behind_a_branch_that_was_listed(clock: str) -> None:
    stage, engine = await installed()
    gid = stage.leave("left")
    stage.on_call("right", "list", asleep(stage, engine, clock, gid))
    report = await engine.settle(grace_s=0)
    assert [doubt.case for doubt in report.waiting] == ["home-silent"]
    assert stage.decision(gid) is None, "a tombstone for what may have been committed"
    assert (await engine.settle(grace_s=0)).waiting == []


async def test_between_the_last_look_at_the_clock_and_the_packet() -> None:
    """Nobody but home can tell then."""
    stage, engine = await installed()
    gid = stage.leave("left")
    home = stage.databases["home"]

    def sleep() -> None:
        stage.databases["left"].prepared.clear()
        late_s = home.clock() + PROBE_S_MAX + 1.0
        home.clock = lambda: late_s

    stage.on_call("home", "probe", sleep)
    report = await engine.settle(grace_s=0)
    assert [doubt.case for doubt in report.waiting] == ["home-silent"]
    assert stage.decision(gid) is None, "a tombstone for what may have been committed"
    assert (await engine.settle(grace_s=0)).waiting == []


async def test_behind_a_branch_that_stood_in_the_way(clock: str) -> None:
    stage, engine = await installed()
    gid = stage.leave("left")
    (name,) = stage.databases["left"].prepared
    branch = parse_text(name)
    assert branch is not None
    engine.found_in_the_way("left", branch, gid)
    sleep = asleep(stage, engine, clock, gid)
    sleep()
    await engine.clear_the_way()
    assert stage.decision(gid) is None


async def test_behind_an_end_that_home_did_not_tell(clock: str) -> None:
    """Of two homes the second is asked hours later."""
    stage, engine = await installed()
    gid = stage.leave("left")
    decided = Moment.of(stage.world)
    engine._unknown = {stage.leave("right", home="right"): ("right", decided), gid: ("home", decided)}
    stage.on_call("right", "probe", asleep(stage, engine, clock, gid))
    await engine._ask_again()
    assert stage.decision(gid) is None
    assert not engine.unknown


async def test_a_young_decision_is_counted_where_its_node_did_not_answer() -> None:
    """Where it does, and lists nothing, the branch is finished."""
    stage, engine = await installed()
    gid = new_gid(stage.world.unix_ms(), bytes(10))
    stage.databases["home"].tables[DECISION][gid] = ["committed", ONE, False, stage.world.now(), ""]
    assert (await engine.settle(grace_s=30)).young == 0
    stage.trouble(Trouble(node="left", call="list", fate=Fate.REFUSED))
    report = await engine.settle(grace_s=30)
    assert (report.young, list(report.unreachable)) == (1, ["left"])
