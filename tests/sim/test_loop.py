"""Virtual time, and processes that are killed and paused in it."""

from __future__ import annotations

import asyncio

import pytest

from nodoubt.sim.loop import ProcessLoop, Schedule

STEPS = 1000


def counting(seen: list[str], name: str, pause_s: float) -> object:
    async def count() -> None:
        for number in range(5):
            seen.append(f"{name}{number}")
            await asyncio.get_running_loop().create_task(asyncio.wait_for(asyncio.Event().wait(), pause_s), name="nap")

    async def patient() -> None:
        while len([what for what in seen if what.startswith(name)]) < 5:
            try:
                await count()
            except TimeoutError:
                continue

    return patient()


def test_time_passes_without_waiting() -> None:
    schedule = Schedule()
    seen: list[str] = []
    for name, pause_s in (("a", 3600.0), ("b", 1800.0)):
        ProcessLoop(schedule, name).create_task(counting(seen, name, pause_s))
    schedule.run(3600.0 * 6, STEPS)
    assert sorted(seen) == [*["a0"] * 5, *["b0"] * 5]
    assert schedule.now == 3600.0 * 6
    assert not schedule.bugs


def test_of_a_killed_process_nothing_happens_any_more() -> None:
    schedule = Schedule()
    loop = ProcessLoop(schedule, "p")
    seen: list[str] = []
    task = loop.create_task(counting(seen, "a", 10.0))
    schedule.at(25.0, loop.kill)
    schedule.run(1000.0, STEPS)
    assert len(seen) == 3
    loop.bury()
    assert not task.done()
    assert len(seen) == 3


def test_a_paused_process_goes_on_where_it_was() -> None:
    schedule = Schedule()
    loop = ProcessLoop(schedule, "p")
    seen: list[str] = []
    loop.create_task(counting(seen, "a", 10.0))
    schedule.at(15.0, loop.pause)
    schedule.run(600.0, STEPS)
    assert len(seen) == 2
    loop.resume()
    schedule.run(700.0, STEPS)
    assert len(seen) == 5


def test_a_world_that_spins_is_stopped() -> None:
    schedule = Schedule()

    def again() -> None:
        schedule.after(0.0, again)

    again()
    with pytest.raises(RuntimeError, match="spins"):
        schedule.run(1.0, STEPS)
