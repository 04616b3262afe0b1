"""The run itself: workers at work and dying, somebody who watches, and settling at the end.

The watcher counts the money while transfers go on, by locking all accounts of one node after the other in the order in which
transfers enlist nodes. So the sum is of one moment, although no database knows of the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import Awaitable, Callable, Mapping

from nodoubt.demo import bank, killer
from nodoubt.demo.crew import BankCrew, CrewFailed
from nodoubt.demo.options import Options
from nodoubt.demo.plain import PlainSession
from nodoubt.demo.view import Moment, View
from nodoubt.demo.worker import GRACE_S, SETTLE_EVERY_S, settler_watch
from nodoubt.engine.asynchronous import AsyncTransactionManager
from nodoubt.errors import NodoubtError

#: How often the end of the run is looked for.
LOOK_EVERY_S = 0.1
SETTLE_PAUSE_S = 0.1
#: How often the money is counted during the run, and how long that may wait for locks.
COUNT_EVERY_S = 1.0
COUNT_TIMEOUT_S = 1.0
UNFINISHED_MAX = 1000

CountMoney = Callable[[], Awaitable[int | None]]
CountDoubts = Callable[[], Awaitable[int | None]]


class Run:
    """One run of the crew."""

    def __init__(self, options: Options, crew: BankCrew, view: View, money_before: int) -> None:
        self.seconds = self.settle_seconds = 0.0
        #: What could not be settled in time.
        self.pending: list[str] = []
        #: Why the workers could not go on, if they could not.
        self.failure = ""
        self._options = options
        self._crew = crew
        self._view = view
        self._money_before = money_before
        self._interrupted = asyncio.Event()

    async def protected(self, nodes: Mapping[str, str]) -> None:
        """With nodoubt: run, then settle what is left."""
        crew, loop = self._crew, asyncio.get_running_loop()
        watch = settler_watch(
            lambda gid: gid in manager.engine.live, lambda gid, branch: crew.settled.add((gid, branch))
        )
        manager = AsyncTransactionManager.open(
            nodes, domain=self._options.domain, grace_s=GRACE_S, settle_every_s=SETTLE_EVERY_S, watch=watch
        )
        async with manager:
            await self._work(lambda: count_money(manager), lambda: count_doubts(manager))
            started = loop.time()
            self.pending = await settle_all(manager, self._options.settle_timeout_s)
            self.settle_seconds = loop.time() - started

    async def unprotected(self, sessions: Mapping[str, PlainSession]) -> None:
        """With plain commits: there is nothing to settle."""

        async def no_doubts() -> None:
            return None

        await self._work(lambda: count_plainly(sessions), no_doubts)

    async def _work(self, money: CountMoney, doubts: CountDoubts) -> None:
        crew, loop = self._crew, asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupted.set)
        plan = killer.plan(
            self._options.kills,
            self._options.seconds,
            random.Random(self._options.seed),
            unprotected=self._options.unprotected,
        )
        watching: asyncio.Task[None] | None = None
        killing: asyncio.Task[None] | None = None
        started = loop.time()
        try:
            await crew.start(self._options.workers)
            started = loop.time()
            killing = asyncio.create_task(crew.carry_out(plan, started))
            watching = asyncio.create_task(self._watch(started, money, doubts))
            await self._until(started, killing)
            self.seconds = loop.time() - started
            await crew.stop()
        except CrewFailed as error:
            # What they did until then is settled and audited all the same.
            self.seconds = self.seconds or loop.time() - started
            self.failure = error.message
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            tasks = [task for task in (killing, watching) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await crew.end()
            self._view.clear()

    async def _until(self, started: float, killing: asyncio.Task[None]) -> None:
        """Wait for the end of the time and of the last kill, or for an interrupt, which ends the run early and well."""
        loop = asyncio.get_running_loop()
        while not self._interrupted.is_set():
            self._crew.check()
            if killing.done():
                killing.result()
                if loop.time() - started >= self._options.seconds:
                    return
            try:
                await asyncio.wait_for(self._interrupted.wait(), LOOK_EVERY_S)
            except TimeoutError:
                continue

    async def _watch(self, started: float, money: CountMoney, doubts: CountDoubts) -> None:
        loop, crew = asyncio.get_running_loop(), self._crew
        counted: int | None = None
        next_count = 0.0
        before, shown_at = 0, started
        while True:
            await asyncio.sleep(self._view.tick_s)
            if loop.time() >= next_count:
                counted = await money()
                next_count = loop.time() + COUNT_EVERY_S
            now, transfers = loop.time(), len(crew.told_committed)
            moment = Moment(
                seconds=now - started,
                transfers=transfers,
                rate=(transfers - before) / (now - shown_at),
                kills=crew.kills,
                kills_planned=self._options.kills,
                in_doubt=await doubts(),
                money=counted,
                money_before=self._money_before,
            )
            before, shown_at = transfers, now
            self._view.show(moment)


async def count_doubts(tm: AsyncTransactionManager) -> int | None:
    """How many branches are in doubt to an onlooker."""
    try:
        return len(await tm.in_doubt())
    except NodoubtError:
        return None


async def count_money(tm: AsyncTransactionManager) -> int | None:
    """The total at one moment, by a transaction that locks all accounts; None if it had to wait too long."""
    money = 0
    try:
        async with tm.transaction(timeout=COUNT_TIMEOUT_S) as tx:
            for name, node in sorted(tm.nodes.items()):
                connection = await tx.on(name)
                rows = await bank.read_rows(node.kind, connection, bank.sum_text(node.kind))
                money += sum(int(balance) for _, balance in rows)
            await tx.rollback("only counting")
    except NodoubtError:
        return None
    return money


async def count_plainly(sessions: Mapping[str, PlainSession]) -> int | None:
    """The same with plain connections."""
    money = 0
    begun = []
    try:
        for _, session in sorted(sessions.items()):
            begun.append(session)
            await session.command(session.begin)
            money += sum(int(balance) for _, balance in await session.query(bank.sum_text(session.kind)))
    except NodoubtError:
        return None
    finally:
        for session in begun:
            with contextlib.suppress(NodoubtError):
                await session.roll_back()
    return money


async def settle_all(tm: AsyncTransactionManager, timeout_s: float) -> list[str]:
    """Settle without a grace period, for all owners are gone, until nothing is left or the time is over; what is left."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        await tm.settle(grace_s=0)
        left = await open_ends(tm)
        if not left or loop.time() >= deadline:
            return left
        await asyncio.sleep(SETTLE_PAUSE_S)


async def open_ends(tm: AsyncTransactionManager) -> list[str]:
    """Every prepared branch and every unfinished decision, as each node lists them; and nodes that do not answer."""
    left = []
    for name, node in tm.nodes.items():
        try:
            branches = (await node.prepared()).ours
            rows = await node.unfinished(UNFINISHED_MAX) if node.capabilities.home else ()
        except NodoubtError as error:
            left.append(f"node {name!r} does not answer: {error.message}")
            continue
        left += [f"branch {found.id.branch} of {found.id.gid} is prepared on {name}" for found in branches]
        left += [f"the decision of {row.gid} on {name} is not marked complete" for row in rows]
    return left
