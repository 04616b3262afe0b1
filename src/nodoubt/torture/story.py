"""The whole story: make the grounds, let the crew work and the faults strike, settle, read, judge, clean up."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping

from nodoubt.demo import bank
from nodoubt.demo.crew import CrewFailed
from nodoubt.demo.plain import connections
from nodoubt.demo.run import open_ends, settle_all
from nodoubt.demo.story import install
from nodoubt.demo.view import View
from nodoubt.engine.asynchronous import AsyncTransactionManager
from nodoubt.engine.config import Config, load
from nodoubt.engine.request import check
from nodoubt.errors import NodoubtError
from nodoubt.nodes.contract import Isolation
from nodoubt.testing.servers import ServerFailed
from nodoubt.torture import jobs, plan
from nodoubt.torture.crew import TortureCrew
from nodoubt.torture.grounds import Grounds, ground
from nodoubt.torture.injector import Injector
from nodoubt.torture.options import DOMAIN, Options
from nodoubt.torture.record import write
from nodoubt.torture.result import Result
from nodoubt.torture.verdict import Findings, examine, read
from nodoubt.torture.watch import Watch
from nodoubt.torture.worker import SETTINGS, node_tables, orders

SETTLE_TIMEOUT_S = 60.0
TICK_S = 1.0
LOOK_S = 0.2


async def tell(options: Options, grounds: Grounds, view: View) -> Result:
    """Run the torture. Raises NodoubtError when it cannot be run."""
    config = load(node_tables(grounds.urls), domain=DOMAIN, settle=False, **SETTINGS)
    kinds = await install(config)
    money = await _found(options, config)
    run = _Run(options, grounds, view, kinds)
    view.say(
        f"{options.workers} workers on {', '.join(kinds)} for {options.seconds:g} s,"
        f" {'with plain commits' if options.unprotected else 'with nodoubt'}; faults:"
        f" {', '.join(grounds.on) or 'none'} (seed {options.seed})"
    )
    for kind, why in grounds.off.items():
        view.say(f"  {kind.value} is off: {why}")
    await run.carry_out(config)
    view.say("reading and judging")
    findings = await _examine(options, config, run, money)
    result = run.result(findings)
    if result.ok or options.unprotected:
        await _leave(config)
    return result


class _Run:
    def __init__(self, options: Options, grounds: Grounds, view: View, kinds: Mapping[str, str]) -> None:
        self.options, self.grounds, self.view, self.kinds = options, grounds, view, kinds
        self.started_ns = time.monotonic_ns()
        self.crew = TortureCrew(self._orders, random.Random(f"{options.seed}/victims"))
        self.injector = Injector(grounds, self.crew, options.seed)
        self.watch = Watch()
        self.pending: list[str] = []
        self.failure = ""
        self.files: list[str] = []
        self.seconds = self.settle_seconds = self.started = 0.0
        self._interrupted = asyncio.Event()

    def _orders(self, number: int) -> str:
        return orders(
            self.grounds.worker_urls,
            self.kinds,
            number,
            self.options.seed * 1000 + number,
            unprotected=self.options.unprotected,
            isolation=self.options.isolation,
            started_ns=self.started_ns,
        )

    async def carry_out(self, config: Config) -> None:
        """Run, heal, and settle what is left."""
        loop = asyncio.get_running_loop()
        async with AsyncTransactionManager(config) as tm:
            await self._work(tm)
            if not (self.crew.record.commits_ns or self.failure or self._interrupted.is_set()):
                self.failure = "no transaction was committed"
            for proxy in self.grounds.proxies.values():
                proxy.stop()
            for name in self.grounds.servers:
                await self.injector.revive(name)
            began = loop.time()
            if not self.options.unprotected:
                self.pending = await settle_all(tm, SETTLE_TIMEOUT_S)
                again = await tm.settle(grace_s=0)
                if not self.pending and (again.settled or again.completed or await open_ends(tm)):
                    self.pending.append(f"settling once more changed something: {again}")
            self.settle_seconds = loop.time() - began

    async def _work(self, tm: AsyncTransactionManager) -> None:
        loop, options = asyncio.get_running_loop(), self.options
        strikes = plan.draw(
            options.seed,
            options.seconds,
            self.grounds.on,
            tuple(self.grounds.servers),
            rarity=options.rarity,
            unprotected=options.unprotected,
        )
        loop.add_signal_handler(signal.SIGINT, self._interrupted.set)
        watching: list[asyncio.Task[None]] = []
        started = loop.time()
        try:
            await self.crew.start(options.workers)
            self.started = started = loop.time()
            looking = [self.watch.follow(name, node, started) for name, node in tm.nodes.items()]
            looking += [self.injector.follow_network(started), self._show(started)]
            watching = [asyncio.create_task(look) for look in looking]
            striking = asyncio.create_task(self.injector.carry_out(strikes, started))
            tending = asyncio.create_task(self.injector.tend_servers())
            watching += [striking, tending]
            await self._until(started, striking, tending)
            self.seconds = loop.time() - started
            await _cancel(striking)
            for proxy in self.grounds.proxies.values():
                proxy.heal()
            await self.crew.stop()
        except (CrewFailed, ServerFailed) as error:
            # What they did until then is settled and judged all the same.
            self.seconds = self.seconds or loop.time() - started
            self.failure = str(error)
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            await _cancel(*watching)
            await self.crew.end()
            self.injector.look_at_network()
            self.view.clear()

    async def _until(self, started: float, striking: asyncio.Task[None], tending: asyncio.Task[None]) -> None:
        """Wait for the end of the time and of the last fault, or for an interrupt, which ends the run early and well."""
        loop = asyncio.get_running_loop()
        while not self._interrupted.is_set():
            self.crew.check()
            if tending.done():
                tending.result()
            if striking.done():
                striking.result()
                if loop.time() - started >= self.options.seconds:
                    return
            try:
                await asyncio.wait_for(self._interrupted.wait(), LOOK_S)
            except TimeoutError:
                continue

    async def _show(self, started: float) -> None:
        loop, before = asyncio.get_running_loop(), 0
        while True:
            await asyncio.sleep(TICK_S)
            committed = len(self.crew.record.commits_ns)
            self.view.show_line(
                f"{loop.time() - started:5.0f} s   {committed:,} committed   {committed - before:,}/s   faults"
                f" {len(self.injector.faults):,}   in doubt {self.watch.in_doubt}"
            )
            before = committed

    def result(self, findings: Findings) -> Result:
        """All figures."""
        record = self.crew.record
        seconds = Counter(int(moment / 1e9 - self.started) for moment in record.commits_ns)
        return Result(
            unprotected=self.options.unprotected,
            nodes=self.kinds,
            workers=self.options.workers,
            seed=self.options.seed,
            seconds=self.seconds,
            again=self.options.command,
            isolation=self.options.isolation,
            judged=findings.judged,
            lost_reads=findings.lost_reads,
            endings={ending: record.count(ending) for ending in ("ok", "fail", "info")},
            reasons=record.reasons,
            rates=[seconds[second] for second in range(max(seconds, default=0) + 1)],
            faults=sorted(self.injector.faults, key=lambda fault: fault.at_s),
            off=self.grounds.off,
            in_doubt=self.watch.samples,
            settled=len(self.crew.settled),
            longest_in_doubt_s=self.watch.longest_s,
            longest_what=self.watch.longest_what,
            settle_seconds=self.settle_seconds,
            wrong=findings.wrong,
            anomalies=findings.anomalies,
            pending=self.pending,
            failure=self.failure,
            files=self.files,
        )


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    """Cancel, and wait for the end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _found(options: Options, config: Config) -> int:
    """Make the tables on every node, or on none; the money that it starts with."""
    tables = (bank.ACCOUNTS, bank.LEDGER, bank.RUN, *jobs.TABLES)
    async with connections(config.nodes) as sessions:
        for node, session in sessions.items():
            await bank.check_vacant(session, node, replace=options.replace, tables=tables)
    # What a killed run left prepared would hold locks on the tables that are to be replaced.
    async with AsyncTransactionManager(config) as tm:
        for place in tm.nodes.values():
            check(place, options.isolation, read_only=False)
            if not options.unprotected:
                check(place, Isolation.SNAPSHOT, read_only=True)
        await settle_all(tm, SETTLE_TIMEOUT_S)
    async with connections(config.nodes) as sessions:
        for session in sessions.values():
            await bank.found(session)
            await jobs.found(session)
        return (await bank.audit(sessions)).total


async def _examine(options: Options, config: Config, run: _Run, money: int) -> Findings:
    try:
        async with connections(config.nodes) as sessions:
            ledgers = await read(sessions)
    except NodoubtError as error:
        run.pending.append(f"the last read failed: {error.message}")
        return Findings()
    deaths_ns = {node: run.injector.last_death_s(node) * 1e9 for node, kind in run.kinds.items() if kind == "mariadb"}
    findings, history = examine(run.crew.record, ledgers, money, options.isolation, deaths_ns)
    if options.history is not None:
        write(history, options.history, f"torture, seed {options.seed}")
        run.files.append(f"the history is in {options.history}")
    return findings


async def _leave(config: Config) -> None:
    """Drop the tables."""
    async with connections(config.nodes) as sessions:
        for session in sessions.values():
            await jobs.demolish(session)
            await bank.demolish(session)


async def run(options: Options, view: View) -> Result:
    """Everything, servers included."""
    with ground(options) as grounds:
        return await tell(options, grounds, view)
