"""The manager of threads, whose interleavings the simulation does not run: many at once, in short turns.

Their deadlines pass, and their sessions are ended. What each was told is then looked at from outside.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from random import Random
from typing import NamedTuple

import apsw
import psycopg
import pymysql
import pytest

from nodoubt import NodoubtError, TransactionManager
from tests.crash.harness import check, connected, purge, settle
from tests.crash.victim import DOMAIN

THREADS = 10
#: Of each thread.
TRANSACTIONS = 24
#: Fewer than there are threads, so that some wait for a connection.
POOL_SIZE = 6
#: So many transactions end between two sessions that are ended.
CALM = 4
#: Seconds; None is the manager's own, which nobody reaches.
TIMEOUTS = (None, None, None, 0.002, 0.01, 0.05)
#: A session of ours by chance, one at work if there is any.
VICTIM = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    " ORDER BY state <> 'active', random() LIMIT 1",
    "mariadb": "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND db = DATABASE()"
    " ORDER BY command = 'Sleep', RAND() LIMIT 1",
}
END = {"postgresql": "SELECT pg_terminate_backend({})", "mariadb": "KILL {}"}


class Told(NamedTuple):
    """What a caller was told of a transaction that inserted one row on some nodes."""

    row: int
    gid: str
    names: list[str]
    state: str


class ChangedHisMind(Exception):
    """The block fails."""


@pytest.fixture
def short_turns() -> Iterator[None]:
    """Threads take turns after a hundredth of the usual time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    yield
    sys.setswitchinterval(before)


def work(tm: TransactionManager, first: int, ended: threading.Semaphore) -> list[Told]:
    """One thread's transactions."""
    dice, told = Random(first), []
    for row in range(first, first + TRANSACTIONS):
        names = dice.sample(sorted(tm.nodes), dice.randint(1, len(tm.nodes)))
        tx = tm.transaction(timeout=dice.choice(TIMEOUTS))
        try:
            with tx:
                for name in names:
                    tx.on(name).cursor().execute(f"INSERT INTO work VALUES ({row})")
                if dice.random() < 0.1:
                    raise ChangedHisMind
            state = "committed"
        except (ChangedHisMind, NodoubtError, psycopg.Error, pymysql.Error, apsw.Error):
            state = tx.outcome.state
        told.append(Told(row, tx.gid, names, state))
        ended.release()
    return told


def end_sessions(nodes: Mapping[str, str], ended: threading.Semaphore) -> int:
    """End a session on each server again and again; returns how many were there to be ended."""
    count = 0
    with ExitStack() as open_lines:
        lines = {name: open_lines.enter_context(connected(nodes[name])) for name in VICTIM}
        for _ in range(THREADS * TRANSACTIONS // CALM):
            for _ in range(CALM):
                ended.acquire()
            for name, ask in lines.items():
                for (number,) in ask(VICTIM[name]):
                    with suppress(pymysql.Error):
                        ask(END[name].format(number))
                        count += 1
    return count


@pytest.mark.usefixtures("short_turns")
def test_many_threads_are_told_the_truth(own_nodes: dict[str, str]) -> None:
    limits = {"pool_size": POOL_SIZE, "acquire_timeout_s": 1.0, "lock_timeout_s": 0.5}
    tables = {name: {"url": url, **limits} for name, url in own_nodes.items()}
    ended = threading.Semaphore(0)
    with (
        TransactionManager.open(tables, domain=DOMAIN, settle_every_s=0.2, grace_s=1.0, forget_every_s=0.1) as tm,
        ThreadPoolExecutor(THREADS + 1) as threads,
    ):
        killer = threads.submit(end_sessions, own_nodes, ended)
        firsts = range(0, THREADS * TRANSACTIONS, TRANSACTIONS)
        told = [one for done in threads.map(lambda first: work(tm, first, ended), firsts) for one in done]
        assert killer.result() > THREADS
        assert not tm.engine.live
        with ExitStack() as together:
            # No ending cost a pool a place.
            for _ in range(POOL_SIZE):
                tx = together.enter_context(tm.transaction())
                for name in VICTIM:
                    tx.on(name, read_only=True)
    asyncio.run(settle(own_nodes))
    asyncio.run(purge(own_nodes))
    ends = Counter(
        check(own_nodes, one.names, one.row, one.gid, None if one.state == "unknown" else one.state) for one in told
    )
    assert ends.total() == THREADS * TRANSACTIONS
    assert min(ends["committed"], ends["aborted"]) > THREADS, ends
