"""What the levels of isolation cost: writers beside openings of snapshots, an opening itself, and serializable transactions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from nodoubt.bench.contestants import Bare, Nodoubt
from nodoubt.bench.work import Lap, WorkNotDone, percentile
from nodoubt.nodes.postgresql import PostgreSQL
from nodoubt.protocol.ids import BranchId

UNGATED = "nodoubt without its gate"
TWO_BEGINS = "two parallel BEGINs"

OPENINGS_PER_S = 100
#: The share of them that a lap must reach, or it did not measure what it says.
OPENINGS_LEAST = 0.9


class Ungated(Nodoubt):
    """nodoubt as it would be if no snapshot could ever be opened: it decides without passing the gate."""

    name = UNGATED
    note = "the same, but its decisions take no lock that an opening could wait for"

    async def open(self) -> None:
        await super().open()
        for node in self._manager.engine.nodes.values():
            node.dialect = _Ungated()  # type: ignore[attr-defined]


class _Ungated(PostgreSQL):
    def decide(self, branch: BranchId, participants: Mapping[int, str]) -> str:
        text = super().decide(branch, participants)
        without = text.replace(self.pass_gate, "")
        if without == text:
            raise WorkNotDone(f"{text!r} passes no gate")
        return without


class BesideOpenings(Nodoubt):
    """nodoubt's writers while snapshots of both nodes are opened, in the same process, at a steady rate."""

    name = f"nodoubt, {OPENINGS_PER_S} openings/s"
    note = f"the same writers, while snapshots of both nodes are opened and closed {OPENINGS_PER_S} times a second"

    async def run(self, lap: int, seconds: float) -> list[float]:
        opened: list[asyncio.Task[None]] = []
        opening = asyncio.create_task(self._open_steadily(opened))
        try:
            return await super().run(lap, seconds)
        finally:
            opening.cancel()
            with suppress(asyncio.CancelledError):
                await opening
            await asyncio.gather(*opened)
            if len(opened) < OPENINGS_LEAST * OPENINGS_PER_S * seconds:
                raise WorkNotDone(f"{self.name}: only {len(opened)} snapshots were opened in {seconds:g} s")

    async def _open_steadily(self, opened: list[asyncio.Task[None]]) -> None:
        began = time.perf_counter()
        while True:
            due = int((time.perf_counter() - began) * OPENINGS_PER_S)
            opened += [asyncio.create_task(self._look()) for _ in range(due - len(opened))]
            await asyncio.sleep(1 / OPENINGS_PER_S)

    async def _look(self) -> None:
        async with self._manager.snapshot():
            pass


class Serializable(Nodoubt):
    """The same transfers at `"serializable"`, the two accounts declared as keys."""

    name = "nodoubt, serializable"
    note = 'isolation="serializable" with both accounts as keys; two of the clients seldom want the same'

    async def transact(self, client: int, key: Callable[[], int]) -> None:
        drawn = [(name, update, key(), change) for name, update, change in self._work]
        nodes = [name for name, *_ in drawn]
        keys = [f"{name}/{account}" for name, _, account, _ in drawn]
        async with self._manager.transaction(isolation="serializable", nodes=nodes, keys=keys) as tx:
            for name, update, account, change in drawn:
                await update(await tx.on(name), account, change)


class Opening(Nodoubt):
    """One client opens a snapshot of both nodes and closes it again. Only the opening is timed; no money moves."""

    name = "nodoubt, tm.snapshot()"
    note = "opening a snapshot of both nodes, one after another; closing is not timed"
    moves = False

    async def run(self, lap: int, seconds: float) -> list[float]:
        return await _openings(self._timed, seconds)

    async def _timed(self) -> float:
        began = time.perf_counter()
        async with self._manager.snapshot():
            return time.perf_counter() - began


class TwoBegins(Bare):
    """The least that two open transactions can cost: BEGIN on both nodes in parallel. They show no instant."""

    name = TWO_BEGINS
    note = "bare driver, BEGIN on both nodes in parallel, one after another; ending is not timed"
    moves = False

    async def run(self, lap: int, seconds: float) -> list[float]:
        return await _openings(self._timed, seconds)

    async def _timed(self) -> float:
        lines = self._lines[0]
        began = time.perf_counter()
        await asyncio.gather(*(line.begin() for line in lines))
        took = time.perf_counter() - began
        await asyncio.gather(*(line.commit() for line in lines))
        return took

    async def transact(self, client: int, key: Callable[[], int]) -> None:
        await self._timed()


async def _openings(timed: Callable[[], Awaitable[float]], seconds: float) -> list[float]:
    latencies: list[float] = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        latencies.append(await timed())
    return latencies


def quickness(lap: Lap) -> float:
    """By the median: one that takes twice as long is half as quick."""
    return 1 / percentile(sorted(lap.latencies_s), 50)
