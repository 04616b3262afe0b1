"""A worker process: does jobs in several lanes at once until its standard input ends, or until it is killed.

Run as a program; it speaks as ``nodoubt.demo.worker`` does. Its reports are ops: ``type`` is ``invoke``, ``ok``, ``fail`` or
``info``, and ``time`` the machine's monotonic clock in nanoseconds, which all processes share.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from nodoubt.demo.bank import read_rows
from nodoubt.demo.killer import BETWEEN
from nodoubt.demo.plain import PlainSession, connections
from nodoubt.demo.worker import Worker, say, serve
from nodoubt.engine.asynchronous import AsyncTransactionManager
from nodoubt.engine.config import load
from nodoubt.engine.request import Level, Wishes
from nodoubt.errors import HeuristicOutcome, InvariantBroken, NodeUnavailable, NodoubtError
from nodoubt.nodes.dialect import Row
from nodoubt.torture import gates
from nodoubt.torture.jobs import JUDGED_WORKS, OPS_MAX, WORKS, Job, Task, View, draw_job
from nodoubt.torture.options import DOMAIN

#: Transactions at once in each process: one that is stalled keeps the others going.
LANES = 4
TIMEOUT_S = 3.0
#: Far shorter than an application would choose, so that much is settled, and purged, within minutes.
SETTINGS = {
    "grace_s": 1.0,
    "settle_every_s": 1.0,
    "retention_s": 150.0,
    "purge_every_s": 20.0,
    "lock_wait_s": 1.0,
}
SESSION_LIMIT_S = 15.0
IMPATIENCE = {"acquire_timeout_s": 2.0, "connect_timeout_s": 2.0, "lock_timeout_s": 1.0}
#: Pause after a failure, and before opening nodes is tried again.
PAUSE_S = 0.2
CLOSE_TIMEOUT_S = 1.0
#: Each worker appends numbers of its own.
VALUES_PER_WORKER = 10**7
#: This share of the serializable transactions declares no keys, and so runs alone.
SHARE_ALONE = 0.01
#: This share of the views is read through several connections, where a node can share what it shows.
SHARE_OF_SHARED = 0.3
#: A point with this before it is one to stop at, not to die at.
STOP_AT = "stop at "
#: How long a worker that nobody wakes stands still; longer than any pause.
STOP_S_MAX = 16.0

_ENDINGS = {"committed": "ok", "aborted": "fail", "unknown": "info"}


def orders(nodes: Mapping[str, str], kinds: Mapping[str, str], number: int, seed: int, **more: Any) -> str:
    """The first line that a worker reads."""
    return json.dumps({"nodes": dict(nodes), "kinds": dict(kinds), "number": number, "seed": seed, **more})


class Toiler(Worker):
    """Does jobs."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        super().__init__(DOMAIN, told["seed"])
        self.kinds: dict[str, str] = told["kinds"]
        self._nodes = node_tables(told["nodes"], **IMPATIENCE)
        self._isolation: Level = told["isolation"]
        self._started_ns: int = told["started_ns"]
        self._number: int = told["number"]
        self._values = itertools.count(self._number * VALUES_PER_WORKER, OPS_MAX)
        #: A process of the history whose last transaction may still take effect is given up, and another goes on.
        self._processes = itertools.count(1)

    def reached(self, point: str, gid: str) -> None:
        if self.point == STOP_AT + point:
            self.point = None
            # Whoever hears it stops us, and wakes us: the signal that does counts also when it comes early.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCONT})
            say(stopping=point)
            signal.sigtimedwait({signal.SIGCONT}, STOP_S_MAX)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCONT})
        super().reached(point, gid)

    def draw(self) -> Job | View:
        """The next job."""
        now_s = (time.monotonic_ns() - self._started_ns) / 1e9
        works = WORKS if self._isolation == "atomic" else JUDGED_WORKS
        return draw_job(list(self.kinds), self.dice, now_s, next(self._values), works)

    async def with_nodoubt(self) -> None:
        """Every job a transaction of nodoubt."""
        manager = self.manager(self._nodes, **SETTINGS)
        async with AsyncExitStack() as stack:
            while True:
                try:
                    tm = await stack.enter_async_context(manager)
                    break
                except NodeUnavailable:  # somebody strikes the servers
                    if self.stopping.is_set():
                        return
                    await asyncio.sleep(PAUSE_S)
            gates.watch(tm.nodes.values(), lambda point: self.reached(point, ""))
            await self._lanes(lambda process: self._job(tm, process))

    async def _job(self, tm: AsyncTransactionManager, process: str) -> str:
        job = self.draw()
        if isinstance(job, View):
            return await self._view(tm, process, job)
        return await self._transaction(tm, process, job)

    async def _view(self, tm: AsyncTransactionManager, process: str, job: View) -> str:
        gid, value, why = secrets.token_hex(13), None, ""
        sharing = self.dice.random() < SHARE_OF_SHARED
        invoke(process, job, gid)
        try:
            async with tm.snapshot(max_age=TIMEOUT_S) as view:
                hand = Protected(
                    gid,
                    lambda node: (
                        view.another(node)
                        if sharing and tm.nodes[node].capabilities.shares_snapshots
                        else view.on(node)
                    ),
                    self.kinds,
                )
                value = await job.carry_out(hand, self.kinds)
        except Exception as error:
            why = type(error).__name__
        ending = "fail" if why else "ok"
        end(process, ending, value, why)
        return ending

    async def _transaction(self, tm: AsyncTransactionManager, process: str, job: Job) -> str:
        value, why = None, ""
        home = self.dice.choice(sorted(job.writes)) if job.writes else None
        tx = tm.transaction(home=home, timeout=TIMEOUT_S, **self._wishes(job))
        hand = Protected(tx.gid, lambda node: tx.on(node, read_only=node not in job.writes), self.kinds)
        invoke(process, job, tx.gid)
        try:
            async with tx:
                value = await job.carry_out(hand, self.kinds)
        except (InvariantBroken, HeuristicOutcome) as error:
            say(broken=str(error))
            why = type(error).__name__
        except Exception as error:
            why = type(error).__name__
        ending = _ENDINGS[tx.outcome.state]
        end(process, ending, value, why)
        return ending

    def _wishes(self, job: Job) -> Wishes:
        """What a transaction asks for at the level of this run."""
        if self._isolation == "atomic":
            return {}
        wishes = Wishes(isolation=self._isolation, nodes=sorted(job.writes), reads=sorted(job.reads))
        if self._isolation == "serializable" and self.dice.random() >= SHARE_ALONE:
            wishes["keys"] = job.keys
        return wishes

    async def with_plain_commits(self) -> None:
        """Every job committed on one node after the other."""
        await self._lanes(self._plain_job)

    async def _plain_job(self, process: str) -> str:
        ending = "fail"
        async with self._plain_sessions() as sessions:
            while not self.stopping.is_set():
                job, hand = self.draw(), Unprotected(sessions)
                invoke(process, job, hand.gid)
                value = why = None
                try:
                    async with asyncio.timeout(TIMEOUT_S):
                        value = await job.carry_out(hand, self.kinds)
                        await hand.commit(lambda gid: self.reached(BETWEEN, gid))
                except (NodoubtError, TimeoutError) as error:
                    why = type(error).__name__
                ending = "ok" if why is None else "info" if hand.committing else "fail"
                end(process, ending, value, why or "")
                if why is not None:
                    break
        return ending

    @asynccontextmanager
    async def _plain_sessions(self) -> AsyncIterator[dict[str, PlainSession]]:
        async with AsyncExitStack() as stack:
            sessions: dict[str, PlainSession] = {}
            with suppress(NodoubtError, TimeoutError):
                async with asyncio.timeout(TIMEOUT_S):
                    sessions = await stack.enter_async_context(connections(load(self._nodes, domain=self.domain).nodes))
            try:
                yield sessions
            finally:
                # Whoever is stalled does not say good-bye.
                with suppress(NodoubtError, TimeoutError, OSError):
                    async with asyncio.timeout(CLOSE_TIMEOUT_S):
                        await stack.aclose()

    async def _lanes(self, work: Callable[[str], Coroutine[Any, Any, str]]) -> None:
        say(ready=True)
        async with asyncio.TaskGroup() as lanes:
            for _ in range(LANES):
                lanes.create_task(self._lane(work))

    async def _lane(self, work: Callable[[str], Coroutine[Any, Any, str]]) -> None:
        process = self._process()
        while not self.stopping.is_set():
            ending = await work(process)
            if ending == "info":
                process = self._process()
            await asyncio.sleep(0 if ending == "ok" else PAUSE_S * self.dice.random())

    def _process(self) -> str:
        return f"{self._number}.{next(self._processes)}"


class Protected:
    """A hand whose statements are branches of a transaction, or of a snapshot, of nodoubt. ``on`` gives their connections."""

    def __init__(self, gid: str, on: Callable[[str], Awaitable[Any]], kinds: Mapping[str, str]) -> None:
        self.gid = gid
        self._on = on
        self._kinds = kinds

    async def run(self, node: str, sql: str) -> None:
        connection = await self._on(node)
        if self._kinds[node] == "mariadb":
            async with connection.cursor() as cursor:
                await cursor.execute(sql)
        else:
            done = connection.execute(sql)
            if inspect.isawaitable(done):
                await done

    async def rows(self, node: str, sql: str) -> Sequence[Row]:
        return await read_rows(self._kinds[node], await self._on(node), sql)


class Unprotected:
    """A hand whose statements are a plain transaction on each node."""

    def __init__(self, sessions: Mapping[str, PlainSession]) -> None:
        self.gid = secrets.token_hex(13)
        self.committing = False
        self._sessions = sessions
        self._begun: dict[str, PlainSession] = {}

    async def run(self, node: str, sql: str) -> None:
        await (await self._on(node)).command(sql)

    async def rows(self, node: str, sql: str) -> Sequence[Row]:
        return await (await self._on(node)).query(sql)

    async def _on(self, node: str) -> PlainSession:
        if node not in self._begun:
            if node not in self._sessions:
                raise NodeUnavailable(f"node {node!r}: no connection")
            self._begun[node] = self._sessions[node]
            await self._begun[node].command(self._begun[node].begin)
        return self._begun[node]

    async def commit(self, between: Callable[[str], None]) -> None:
        """Commit on one node after the other."""
        for session in self._begun.values():
            if self.committing:
                between(self.gid)
            self.committing = True
            await session.command("COMMIT")


def node_tables(urls: Mapping[str, str], **more: float) -> dict[str, dict[str, Any]]:
    """Nodes whose sessions don't outlive a decision that is purged within minutes."""
    return {name: {"url": url, "session_limit_s": SESSION_LIMIT_S, **more} for name, url in urls.items()}


def invoke(process: str, job: Task, gid: str) -> None:
    """Record that a job begins."""
    say(type="invoke", process=process, work=job.name, gid=gid, value=job.ops, time=time.monotonic_ns())


def end(process: str, ending: str, value: Any, why: str) -> None:
    """Record how it ended, as far as is known here."""
    say(type=ending, process=process, value=value, why=why, time=time.monotonic_ns())


def toil(told: Mapping[str, Any]) -> tuple[Worker, Coroutine[Any, Any, None]]:
    """A worker of the torture."""
    worker = Toiler(told)
    return worker, worker.with_plain_commits() if told["unprotected"] else worker.with_nodoubt()


if __name__ == "__main__":
    sys.exit(asyncio.run(serve(toil)))
