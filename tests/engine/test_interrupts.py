"""A deadline interrupts the block's task, and leaves that task as it was."""

from __future__ import annotations

import asyncio
import math
import signal
import threading
from contextlib import suppress
from unittest.mock import Mock

import pytest

from nodoubt.engine.asynchronous import AsyncTransaction
from nodoubt.engine.engine import Engine
from nodoubt.engine.worlds import ThreadWorld, run_now
from nodoubt.errors import Aborted
from nodoubt.nodes.memory_calls import Fate
from tests.engine.stage import Stage, Trouble

#: No step here takes so long.
PATIENCE_S = 5.0


async def test_a_deadline_is_told_as_such_whatever_the_task_was_cancelled_for_before() -> None:
    engine, task = await _engine(), asyncio.current_task()
    assert task is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()
    for _ in range(2):
        with pytest.raises(Aborted, match="not over within"):
            async with AsyncTransaction(engine.begin(timeout_s=0.01)):
                await asyncio.Event().wait()
        assert task.cancelling() == 1
    task.uncancel()


async def test_a_block_that_makes_something_else_of_the_interrupt_leaves_no_cancellation_behind() -> None:
    engine, task = await _engine(), asyncio.current_task()
    assert task is not None

    async def block() -> None:
        async with AsyncTransaction(engine.begin(timeout_s=0.01)):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ValueError("mine") from None

    with pytest.raises(ValueError, match="mine"):
        await block()
    assert task.cancelling() == 0


async def test_the_rollback_of_an_interrupted_block_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodoubt.engine.work.PATIENCE_S", 0.01)
    stage = Stage()
    await stage.install()
    engine, undone = await stage.process(), Trouble(node="left", call="undo", fate=Fate.HELD)

    async def block() -> None:
        async with AsyncTransaction(engine.begin(timeout_s=0.01)) as tx:
            await (await tx.on("left")).put("fact", "key", "value")
            stage.trouble(undone)
            await asyncio.Event().wait()

    with pytest.raises(Aborted, match="not over within"):
        await asyncio.wait_for(block(), PATIENCE_S)


async def test_a_block_that_goes_on_is_interrupted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodoubt.engine.work.PATIENCE_S", 0.01)
    work = (await _engine()).begin(timeout_s=0.01)
    expire, rings, rung = work.expire, list[bool](), asyncio.Event()

    def ring() -> None:
        before = work.interrupt = Mock(wraps=work.interrupt)
        expire()
        rings.append(before.called)
        if len(rings) == 2:
            rung.set()

    async def block() -> None:
        async with AsyncTransaction(work):
            with suppress(asyncio.CancelledError):
                await rung.wait()
            await rung.wait()

    monkeypatch.setattr(work, "expire", ring)
    with pytest.raises(Aborted, match="not over within"):
        await block()
    assert rings == [True, False]


async def test_a_block_that_does_not_let_go_loses_its_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its locks would keep others waiting for as long as it likes."""
    monkeypatch.setattr("nodoubt.engine.work.PATIENCE_S", 0.01)
    engine = await _engine()
    work, cut = engine.begin(timeout_s=0.01), asyncio.Event()

    async def block() -> None:
        async with AsyncTransaction(work) as tx:
            await (await tx.on("left")).put("fact", "key", "stuck")
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            async with AsyncTransaction(engine.begin()) as other:
                await (await other.on("left")).put("fact", "key", "free")
            cut.set()

    with pytest.raises(Aborted, match="not over within"):
        await asyncio.wait_for(block(), PATIENCE_S)
    assert cut.is_set()


async def test_a_transaction_that_was_never_entered_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodoubt.engine.work.PATIENCE_S", 0.01)
    engine, over = await _engine(), asyncio.Event()
    work = engine.begin(timeout_s=0.01)
    expire = work.expire

    def ring() -> None:
        expire()
        if not engine.live:
            over.set()

    monkeypatch.setattr(work, "expire", ring)
    await asyncio.wait_for(over.wait(), PATIENCE_S)
    assert work.deadline_s == math.inf


async def _engine() -> Engine:
    stage = Stage()
    await stage.install()
    return await stage.process()


async def test_a_branch_that_was_not_opened_for_a_timeout_of_the_user_dooms_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()

    async def hang(*arguments: object, **options: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(engine.nodes["right"], "begin", hang)
    work = engine.begin()

    async def block() -> None:
        async with AsyncTransaction(work) as tx:
            await (await tx.on("left")).put("fact", "key", "value")
            with suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await tx.on("right")

    with pytest.raises(Aborted, match="node 'right' was not opened: CancelledError"):
        await block()
    assert work.outcome.state == "aborted"


def test_a_signal_in_a_wait_for_a_turn_loses_no_turn() -> None:
    turns = ThreadWorld().turns(1)

    def stop(number: int, frame: object) -> None:
        raise ZeroDivisionError

    assert turns.take_now()
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(ZeroDivisionError):
            run_now(turns.take(PATIENCE_S))
    finally:
        signal.signal(signal.SIGALRM, before)
    turns.give_back()
    assert turns.take_now()


def test_an_alarm_that_fails_and_one_far_away_leave_the_others_alone() -> None:
    world, rung = ThreadWorld(), threading.Event()
    world.later(threading.TIMEOUT_MAX * 2, rung.set)

    def fail() -> None:
        raise ZeroDivisionError

    world.later(0, fail)
    world.later(0.01, rung.set)
    assert rung.wait(PATIENCE_S)
    world.close()


def test_steps_at_once_are_carried_out_although_the_manager_was_closed() -> None:
    world = ThreadWorld()
    world.close()

    async def step(number: int) -> int:
        return number

    assert run_now(world.together([step(1), step(2), step(3)])) == [1, 2, 3]
