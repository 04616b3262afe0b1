"""A deadline interrupts the block's task, and leaves that task as it was."""

from __future__ import annotations

import asyncio

import pytest

from nodoubt.engine.asynchronous import AsyncTransaction
from nodoubt.engine.engine import Engine
from nodoubt.errors import Aborted
from tests.engine.stage import Stage


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


async def _engine() -> Engine:
    stage = Stage()
    await stage.install()
    return await stage.process()
