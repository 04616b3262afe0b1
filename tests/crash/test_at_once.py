"""Many transactions of one manager at once, on real servers: of threads, which the simulation does not run, and of tasks.

Deadlines pass, tasks are cancelled, and sessions are ended while they are at work. What each caller was told is then looked at
from outside.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, suppress
from random import Random
from typing import Any, NamedTuple

import aiomysql
import apsw
import asyncpg
import psycopg
import pymysql
import pytest

from nodoubt import AsyncTransactionManager, NodoubtError, TransactionManager
from tests.crash.harness import check, connected, purge, settle
from tests.crash.victim import DOMAIN

CALLERS = 10
#: Of each caller.
TRANSACTIONS = 24
#: Fewer than there are callers, so that some wait for a connection.
POOL_SIZE = 6
#: So many transactions end between two sessions that are ended.
CALM = 4
#: Seconds; None is the manager's own, which nobody reaches.
TIMEOUTS = (None, None, None, 0.002, 0.01, 0.05)
#: When a task is cancelled, if it is.
CANCELLED_S = (0.0005, 0.002, 0.005, 0.02)
SETTINGS: Mapping[str, Any] = {"domain": DOMAIN, "settle_every_s": 0.2, "grace_s": 1.0, "forget_every_s": 0.1}
#: A session of ours by chance, one at work if there is any.
VICTIM = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    " ORDER BY state <> 'active', random() LIMIT 1",
    "mariadb": "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND db = DATABASE()"
    " ORDER BY command = 'Sleep', RAND() LIMIT 1",
}
#: With PostgreSQL until it is over: who takes the session next must see that.
END = {"postgresql": "SELECT pg_terminate_backend({}, 5000)", "mariadb": "KILL {}"}


class ChangedHisMind(Exception):
    """The block fails."""


#: With these a block may end.
ENDS = (
    *(ChangedHisMind, asyncio.CancelledError, NodoubtError, apsw.Error, psycopg.Error, pymysql.Error),
    *(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError),
)


class Plan(NamedTuple):
    """A transaction: the row that it inserts, where, and what becomes of its block."""

    row: int
    names: list[str]
    timeout: float | None
    fails: bool
    cancelled_s: float | None


class Told(NamedTuple):
    """What its caller was told."""

    plan: Plan
    gid: str
    state: str


def plans(caller: int, names: list[str]) -> Iterator[Plan]:
    """What one caller does, one after the other."""
    dice = Random(caller)
    for row in range(caller * TRANSACTIONS, (caller + 1) * TRANSACTIONS):
        some = dice.sample(names, dice.randint(1, len(names)))
        cancelled_s = dice.choice(CANCELLED_S) if dice.random() < 0.2 else None
        yield Plan(row, some, dice.choice(TIMEOUTS), dice.random() < 0.1, cancelled_s)


def tables(nodes: Mapping[str, str]) -> dict[str, Any]:
    """The nodes' settings: nothing is waited for long."""
    limits = {"pool_size": POOL_SIZE, "acquire_timeout_s": 1.0, "lock_timeout_s": 0.5}
    return {name: {"url": url, **limits} for name, url in nodes.items()}


def end_sessions(nodes: Mapping[str, str], ended: threading.Semaphore) -> int:
    """End a session on each server whenever some transactions have ended; returns how many were there to be ended."""
    count = 0
    with ExitStack() as open_lines:
        lines = {name: open_lines.enter_context(connected(nodes[name])) for name in VICTIM}
        for _ in range(CALLERS * TRANSACTIONS // CALM):
            for _ in range(CALM):
                ended.acquire()
            for name, ask in lines.items():
                for (number,) in ask(VICTIM[name]):
                    with suppress(pymysql.Error):
                        ask(END[name].format(number))
                        count += 1
    return count


def judge(nodes: Mapping[str, str], told: list[Told], killed: int) -> None:
    """Everybody was told the truth, and nothing is left."""
    asyncio.run(settle(nodes))
    asyncio.run(purge(nodes))
    ends = Counter(
        check(nodes, plan.names, plan.row, gid, None if state == "unknown" else state) for plan, gid, state in told
    )
    assert ends.total() == CALLERS * TRANSACTIONS
    assert min(ends["committed"], ends["aborted"], killed) > CALLERS, (ends, killed)


@pytest.fixture
def short_turns() -> Iterator[None]:
    """Threads take turns after a hundredth of the usual time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    yield
    sys.setswitchinterval(before)


def transact(tm: TransactionManager, plan: Plan) -> Told:
    tx = tm.transaction(timeout=plan.timeout)
    try:
        with tx:
            for name in plan.names:
                tx.on(name).cursor().execute(f"INSERT INTO work VALUES ({plan.row})")
            if plan.fails:
                raise ChangedHisMind
    except ENDS:
        return Told(plan, tx.gid, tx.outcome.state)
    return Told(plan, tx.gid, "committed")


@pytest.mark.usefixtures("short_turns")
def test_many_threads_are_told_the_truth(own_nodes: dict[str, str]) -> None:
    ended = threading.Semaphore(0)

    def call(caller: int) -> list[Told]:
        told = []
        for plan in plans(caller, list(own_nodes)):
            told.append(transact(tm, plan))
            ended.release()
        return told

    with (
        TransactionManager.open(tables(own_nodes), **SETTINGS) as tm,
        ThreadPoolExecutor(CALLERS + 1) as threads,
    ):
        killer = threads.submit(end_sessions, own_nodes, ended)
        told = [one for done in threads.map(call, range(CALLERS)) for one in done]
        killed = killer.result()
        assert not tm.engine.live
        with ExitStack() as together:
            # No ending cost a pool a place.
            for _ in range(POOL_SIZE):
                tx = together.enter_context(tm.transaction())
                for name in VICTIM:
                    tx.on(name, read_only=True)
    judge(own_nodes, told, killed)


async def transact_cancelled(tm: AsyncTransactionManager, plan: Plan) -> Told:
    """In a task of its own, which is cancelled perhaps."""
    tx = tm.transaction(timeout=plan.timeout)

    async def block() -> None:
        async with tx:
            for name in plan.names:
                await insert(await tx.on(name), plan.row)
            if plan.fails:
                raise ChangedHisMind

    task = asyncio.create_task(block())
    if plan.cancelled_s is not None:
        asyncio.get_running_loop().call_later(plan.cancelled_s, task.cancel)
    try:
        await task
    except ENDS:
        return Told(plan, tx.gid, tx.outcome.state)
    return Told(plan, tx.gid, "committed")


async def insert(connection: Any, row: int) -> None:
    text = f"INSERT INTO work VALUES ({row})"
    if isinstance(connection, aiomysql.Connection):
        async with connection.cursor() as cursor:
            await cursor.execute(text)
    elif isinstance(connection, apsw.Connection):
        connection.execute(text)
    else:
        await connection.execute(text)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_many_tasks_are_told_the_truth(own_nodes: dict[str, str], driver: str) -> None:
    ended = threading.Semaphore(0)
    urls = own_nodes | {"postgresql": own_nodes["postgresql"].replace("postgresql:", f"postgresql+{driver}:")}

    async def call(tm: AsyncTransactionManager, caller: int) -> list[Told]:
        told = []
        for plan in plans(caller, list(own_nodes)):
            told.append(await transact_cancelled(tm, plan))
            ended.release()
        return told

    async def story() -> tuple[list[Told], int]:
        async with AsyncTransactionManager.open(tables(urls), **SETTINGS) as tm:
            killer = asyncio.create_task(asyncio.to_thread(end_sessions, own_nodes, ended))
            told = [one for done in await asyncio.gather(*(call(tm, n) for n in range(CALLERS))) for one in done]
            killed = await killer
            assert not tm.engine.live
            async with AsyncExitStack() as together:
                for _ in range(POOL_SIZE):
                    tx = await together.enter_async_context(tm.transaction())
                    for name in VICTIM:
                        await tx.on(name, read_only=True)
        return told, killed

    judge(own_nodes, *asyncio.run(story()))
