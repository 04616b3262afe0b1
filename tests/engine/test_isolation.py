"""Levels of isolation over nodes in memory: what an opening waits for, finishes, refuses, and leaves behind."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from nodoubt.engine.asynchronous import AsyncSnapshot, AsyncTransaction
from nodoubt.engine.instant import Instant
from nodoubt.engine.request import shared
from nodoubt.engine.work import Work
from nodoubt.errors import Aborted, ConfigError, GuardError, NodeUnavailable
from nodoubt.nodes.contract import Gate
from nodoubt.nodes.memory_calls import Call, Fate, Refused
from tests.engine.stage import NAMES, Stage, Trouble, looking, seen, told


def holding(stage: Stage, node: str, name: str) -> asyncio.Event:
    """Hold the next call of that name on its way, until :meth:`Stage.heal`; the event tells that it is there."""
    there = asyncio.Event()

    def faults(call: Call) -> Fate:
        if call.name != name or there.is_set():
            return Fate.FINE
        there.set()
        return Fate.HELD

    stage.databases[node].faults = faults
    return there


async def is_open(stage: Stage) -> bool:
    """Whether all gates let a transaction through."""
    work = await stage.write(await stage.process(), key="another")
    return await told(work) == "committed"


async def test_a_view_shows_all_of_a_transaction_or_nothing() -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    work = await stage.write(engine)
    before = await looking(engine)
    assert await told(work) == "committed"
    after = await looking(engine)
    assert await seen(before) == {None}
    assert await seen(after) == {work.gid}
    assert await told(before) == await told(after) == "committed"


async def test_between_two_commits_an_opening_finishes_what_was_decided() -> None:
    stage = Stage()
    await stage.install()
    work = await stage.write(await stage.process())
    stuck = holding(stage, "left", "finish")
    owner = asyncio.create_task(told(work))
    await stuck.wait()
    assert stage.written() == {"home", "right"}
    assert await seen(await looking(await stage.process())) == {work.gid}
    stage.heal()
    assert await owner == "committed"
    assert work.outcome.strays == ()


@pytest.mark.parametrize("names", [("left",), ("left", "right"), NAMES])
async def test_what_a_dead_owner_decided_is_finished_first(names: tuple[str, ...]) -> None:
    """Also where only one node is looked at: its caller may have been told."""
    stage = Stage()
    await stage.install()
    gid = stage.leave("left", 1)
    stage.leave("right", 2, gid=gid)
    stage.decide(gid, '{"1":"left","2":"right"}')
    view = await looking(await stage.process(), *names)
    assert await seen(view, *(name for name in names if name != "home")) == {gid}


async def test_what_is_not_decided_is_left_alone() -> None:
    stage = Stage()
    await stage.install()
    gid = stage.leave("left")
    assert await seen(await looking(await stage.process())) == {None}
    assert stage.decision(gid) is None, "no tombstone"
    assert stage.prepared().keys() == {"left"}


async def test_a_home_that_is_not_configured_is_an_error() -> None:
    stage = Stage()
    await stage.install()
    stage.leave("left", home="elsewhere")
    with pytest.raises(NodeUnavailable, match="'elsewhere', which is not configured") as caught:
        await looking(await stage.process())
    assert not caught.value.retryable
    assert await is_open(stage)


async def test_a_home_that_is_down_is_an_error() -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    stage.databases["right"].stop()
    with pytest.raises(NodeUnavailable, match="right") as caught:
        await looking(engine, "home", "left")
    assert caught.value.outcome is not None
    assert caught.value.outcome.state == "aborted"
    assert not engine.live
    stage.heal()
    assert await is_open(stage)


async def test_nobody_decides_while_snapshots_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    await stage.install()
    engine, other = await stage.process(), await stage.process()
    work = await stage.write(other)
    committing: list[asyncio.Task[str]] = []
    finish_decided = Instant._finish_decided

    async def meanwhile(self: Instant, shown: Collection[str]) -> None:
        await finish_decided(self, shown)
        arrives = asyncio.Event()
        stage.on_call("home", "decide", arrives.set)
        committing.append(asyncio.create_task(told(work)))
        await arrives.wait()

    monkeypatch.setattr(Instant, "_finish_decided", meanwhile)
    assert await seen(await looking(engine)) == {None}
    assert await committing[0] == "committed"


async def test_a_gate_that_was_open_in_between_spoils_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """The opener was stopped for longer than the server lets a gate stay closed."""
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    node = engine.nodes["right"]
    close_gate = node.close_gate

    async def closes_and_dies(wait_s: float) -> Gate:
        gate = await close_gate(wait_s)
        database = stage.databases["right"]
        for session in list(database._open):
            database.end(session)
        return gate

    monkeypatch.setattr(node, "close_gate", closes_and_dies)
    with pytest.raises(NodeUnavailable) as caught:
        await looking(engine, "home", "left")
    assert caught.value.retryable
    assert not engine.live


async def test_those_who_wait_share_one_closing_and_fail_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    openings, all_wait, arrived = engine.openings, asyncio.Event(), itertools.count(1)
    open_ = openings.open

    async def open_when_told(*terms: Any) -> None:
        if next(arrived) == 3:
            all_wait.set()
        await open_(*terms)

    monkeypatch.setattr(openings, "open", open_when_told)
    assert openings._turns.take_now()
    views = [asyncio.create_task(looking(engine)) for _ in range(3)]
    await all_wait.wait()
    stage.trouble(Trouble(node="left", call="look", fate=Fate.LOST))
    closings: list[str] = []

    def counted(call: Call) -> Fate:
        closings.extend([call.name] * (call.name == "close-gate"))
        return Fate.FINE

    stage.databases["home"].faults = counted
    openings._turns.give_back()
    shown = await asyncio.gather(*views, return_exceptions=True)
    assert sorted(type(view).__name__ for view in shown) == ["NodeUnavailable", "Work", "Work"]
    for view in shown:
        if isinstance(view, Work):
            assert await seen(view) == {None}
    assert closings == ["close-gate"]


async def test_who_waited_too_long_leaves_his_connections_to_who_opens_for_him() -> None:
    """Found by simulation: two answers were waited for on one connection, of which one never came."""
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    both_wait, through, waits_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    calls = itertools.count(1)

    async def take(timeout_s: float) -> bool:
        match next(calls):
            case 1:
                await both_wait.wait()
                return True
            case 2:
                both_wait.set()
                await stuck.wait()
                return False
            case _:
                waits_on.set()
                await through.wait()
                return True

    engine.openings._turns = SimpleNamespace(take=take, give_back=through.set)
    stuck = holding(stage, "left", "look")
    views = [asyncio.create_task(looking(engine)) for _ in range(2)]
    await waits_on.wait()
    stage.heal()
    for view in await asyncio.gather(*views):
        assert await seen(view) == {None}


async def test_first_committer_wins() -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    one = engine.begin(isolation="snapshot")
    two = engine.begin(isolation="snapshot", nodes=("left",), reads=("home",))
    await one.open_named()
    await two.open_named()
    await (await one.on("left")).put("fact", "key", "one")
    await (await one.on("home")).put("fact", "key", "one")
    assert await told(one) == "committed"
    with pytest.raises(Refused) as caught:
        await (await two.on("left")).put("fact", "key", "two")
    await two.roll_back("it lost")
    assert two.may_retry(caught.value)


async def test_a_node_that_was_not_named_is_not_in_the_snapshot() -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    view = await looking(engine, "home")
    with pytest.raises(GuardError, match="'left' is not in the snapshot"):
        await view.on("left", read_only=True)
    with pytest.raises(GuardError, match="'left' is not in the snapshot"):
        await view.share("left")
    with pytest.raises(GuardError, match="was opened read-only"):
        await view.on("home")


async def test_the_home_of_a_snapshot_transaction_need_not_be_in_it() -> None:
    stage = Stage()
    await stage.install()
    work = (await stage.process()).begin(home="right", isolation="snapshot", nodes=("left",))
    await work.open_named()
    await (await work.on("left")).put("fact", "key", "value")
    assert await told(work) == "committed"
    assert work.home == "right"


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"isolation": "serialisable"}, "did you mean 'serializable'"),
        ({"isolation": 3}, "there are atomic, snapshot, serializable"),
        ({"isolation": "snapshot", "keys": ["a"]}, "keys= are locked by serializable transactions"),
        ({"keys": ["a"]}, "keys= are locked by serializable transactions"),
        ({"nodes": ["home"]}, "nodes= and reads= are for"),
        ({"isolation": "snapshot", "nodes": ["home"], "reads": ["home"]}, "'home' is in nodes= and in reads="),
        ({"isolation": "snapshot", "nodes": ["hoem"]}, "did you mean 'home'"),
    ],
)
async def test_what_cannot_be_asked_for(wishes: dict[str, Any], words: str) -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    with pytest.raises(ConfigError) as caught:
        engine.begin(**wishes)
    assert words in f"{caught.value.message} {caught.value.hint}"
    assert not engine.live


async def test_what_a_node_cannot_give_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    monkeypatch.setattr(engine.nodes["left"], "refusal", lambda isolation, *, read_only: f"no {isolation} {read_only}")
    with pytest.raises(ConfigError, match="node 'left' cannot give 'snapshot': no snapshot True"):
        engine.begin(isolation="snapshot", nodes=("home",), reads=("left",))
    late = engine.begin(isolation="serializable")
    with pytest.raises(ConfigError, match="no serializable False"):
        await late.on("left")
    assert await told(late) == "ConfigError"


async def test_keys_are_locked_in_one_order_and_the_stronger_wins() -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    work = engine.begin(isolation="serializable", keys=["b", shared("a"), shared("b"), "c", shared("c")])
    assert [(key.name, key.shared) for key in work.terms.keys] == [("a", True), ("b", False), ("c", False)]


async def test_who_was_aborted_before_waits_longer() -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process(lock_wait_s=3.0)
    waits = [engine.begin(isolation="serializable", attempt=attempt).terms.lock_wait_s for attempt in (1, 1, 2, 3)]
    assert all(3 * n <= wait <= 6 * n for n, wait in zip((1, 1, 2, 3), waits, strict=True))
    assert waits[0] != waits[1], "equal time-outs would let both of a ring give up at once, again and again"


async def test_who_is_cancelled_while_it_opens_leaves_nothing_open() -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    stuck = holding(stage, "left", "begin")

    async def write() -> None:
        async with AsyncTransaction(engine.begin(isolation="snapshot")):
            raise AssertionError("the block runs")

    writer = asyncio.create_task(write())
    await stuck.wait()
    writer.cancel()
    stage.heal()
    with pytest.raises(asyncio.CancelledError):
        await writer
    assert not engine.live
    assert await is_open(stage)


async def test_a_view_that_grows_too_old_says_so() -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    with pytest.raises(Aborted, match="not over within"):
        async with AsyncSnapshot(engine.begin(isolation="snapshot", nodes=(), reads=NAMES, timeout_s=0.01)):
            await asyncio.Event().wait()


async def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_a_connection() -> None:
    """Nothing interrupts an opening; found by simulation."""
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    left: Any = engine.nodes["left"]
    left._settings = replace(left._settings, connect_timeout_s=0.05)
    stuck = holding(stage, "left", "begin")
    with pytest.raises(NodeUnavailable, match="left"):
        await looking(engine)
    assert stuck.is_set()
    stage.heal()
    assert await is_open(stage)


async def test_an_opening_that_fails_aborts() -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    stage.trouble(Trouble(node="left", call="begin", fate=Fate.CRASH))
    work = engine.begin(isolation="snapshot")
    with pytest.raises(NodeUnavailable):
        await work.open_named()
    assert work.outcome.state == "aborted"
    stage.heal()
    assert await is_open(stage)
