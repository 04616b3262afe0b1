"""Recovery: branches that a crashed owner left in doubt, half of them decided at home, settled in one call."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from nodoubt.bench.grounds import Ground, ground, install
from nodoubt.bench.lines import KINDS, kind_of
from nodoubt.bench.runner import Say
from nodoubt.bench.work import DOMAIN, TABLE, Options, WorkNotDone
from nodoubt.engine.asynchronous import AsyncTransactionManager
from nodoubt.engine.settle import SettleReport
from nodoubt.protocol.ids import BranchId, new_gid

NAME = "settle"
KINDS_OF_NODES = ("postgresql", "postgresql")
HOME, OTHER = "n0", "n1"

CALLS_MAX = 3
"""Each call needs new branches, which take longer to prepare than to settle."""

BATCH = 500
"""Decisions in one statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleResult:
    """The seconds of each call."""

    branches: int
    versions: list[str]
    seconds: list[float] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Branches a second, of each call."""
        return [self.branches / seconds for seconds in self.seconds]


async def run_settling(options: Options, say: Say) -> SettleResult:
    """Start what is needed, settle, and take it all down. Raises WorkNotDone."""
    say(f"{NAME}: preparing {' and '.join(KINDS_OF_NODES)}")
    with ground(KINDS_OF_NODES, options, branches_max=options.branches) as place:
        result = SettleResult(branches=options.branches, versions=await place.furnish())
        await install(place.urls)
        try:
            calls = min(options.rounds, CALLS_MAX)
            for number in range(1, calls + 1):
                gids = await leave_in_doubt(place, options)
                result.seconds.append(await _settle(place, options, gids))
                say(f"{NAME}: call {number} of {calls}: {options.branches} branches, {result.rates[-1]:,.0f}/s")
        finally:
            await place.clear()
    return result


async def leave_in_doubt(place: Ground, options: Options) -> list[str]:
    """Do as an owner that crashed: prepared branches on the second node, every other one decided at home.

    Transaction number i works on account i, which stands at 0 before.
    """
    gids = [new_gid(time.time_ns() // 1_000_000, os.urandom(10)) for _ in range(options.branches)]
    kind, url = KINDS[kind_of(place.urls[1])], place.urls[1]
    async with place.lines() as (home, other):
        await other.run(f"TRUNCATE {TABLE}")
        await other.run(f"INSERT INTO {TABLE} SELECT id, 0 FROM generate_series(0, {len(gids) - 1}) AS id")
        await other.run(f"ANALYZE {TABLE}")
        decided = gids[::2]
        for first in range(0, len(decided), BATCH):
            rows = ",".join(f"('{gid}','committed','{{\"1\": \"{OTHER}\"}}')" for gid in decided[first : first + BATCH])
            await home.run(f"INSERT INTO nodoubt.decision (gid, decision, participants) VALUES {rows}")
    todo = iter(enumerate(gids))

    async def owner() -> None:
        line = await kind.connect(url)
        for account, gid in todo:
            branch = BranchId(domain=DOMAIN, gid=gid, branch=1, home=HOME)
            await line.run(
                f"BEGIN;UPDATE {TABLE} SET balance = 1 WHERE id = {account};"
                f"INSERT INTO nodoubt.branch VALUES ('{gid}', 1);PREPARE TRANSACTION '{branch.text()}'"
            )
        await line.close()

    await asyncio.gather(*(owner() for _ in range(options.clients)))
    return gids


async def _settle(place: Ground, options: Options, gids: Sequence[str]) -> float:
    nodes = dict(zip((HOME, OTHER), place.urls, strict=True))
    # The background settler stays off: it would begin before the clock runs.
    async with AsyncTransactionManager.open(nodes, domain=DOMAIN, settle=False) as manager:
        began = time.perf_counter()
        report = await manager.settle(grace_s=0)
        elapsed_s = time.perf_counter() - began
    await check(place, gids, report)
    return elapsed_s


async def check(place: Ground, gids: Sequence[str], report: SettleReport) -> None:
    """Raise WorkNotDone unless the database shows the end that every branch had to have."""
    async with place.lines() as (_, other):
        left = await other.query("SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()")
        applied = await other.query(f"SELECT id FROM {TABLE} WHERE balance = 1 ORDER BY id")
    if left[0][0]:
        raise WorkNotDone(f"{left[0][0]} branches are still in doubt after settling: {report.unreachable}")
    if [account for (account,) in applied] != list(range(0, len(gids), 2)):
        raise WorkNotDone(f"{len(applied)} branches are applied, or not those {len(gids[::2])} that were decided")
    if report.settled != len(gids):
        raise WorkNotDone(f"the report counts {report.settled} settled branches instead of {len(gids)}")
