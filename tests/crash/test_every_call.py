"""Every call fails once, on real servers: by errors, settled by the manager that lives, and by crashes, settled by another.

Of each change: transactions that commit on two nodes, each kind once as home and once as participant. With PROVE_DEEP=1: every
pair of kinds, ended in every way, and every order of all three.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection

import apsw
import asyncpg
import pymysql
import pytest

from nodoubt import AsyncTransactionManager, NodoubtError
from nodoubt.engine.config import Config
from nodoubt.engine.engine import Settings
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.sim.fuse import CRASHES, ERRORS
from nodoubt.sim.mutants import switched_on
from tests.crash.calls import Fuse, laid
from tests.crash.harness import ROUNDS_MAX, Victim, check, query
from tests.crash.points import KINDS
from tests.crash.victim import DOMAIN, purge_all, run

DEEP = bool(os.environ.get("PROVE_DEEP"))
#: How a transaction ends when nothing fails.
ENDS = {"commit": "committed", "refuse": "aborted", "raise": "aborted"}
#: Nodes in the order of enlistment, home first, and the end.
CASES: list[tuple[tuple[str, ...], str]] = [
    (names, "commit") for names in zip(KINDS, KINDS[1:] + KINDS[:1], strict=True)
]
if DEEP:
    CASES = [*itertools.product(itertools.permutations(KINDS, 2), ENDS)]
    CASES += [(names, "commit") for names in itertools.permutations(KINDS, 3)]
#: At least so many calls are made for each branch, or the injection is broken.
CALLS_MIN = 4
#: No transaction here makes so many.
CALLS_MAX = 60
#: Ids of rows, apart from those of the other tests here.
IDS = itertools.count(1_000_000)
#: Of the sessions of a server that are not the one that asks.
OTHERS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
    "mariadb": "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()",
}
#: How often a server is asked whether it has noticed that a connection was closed.
LOOKS_MAX = 1000


class Regret(Exception):
    """The block gives up."""


#: What a block may get.
EXPECTED = (
    NodoubtError,
    Regret,
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    pymysql.MySQLError,
    apsw.Error,
)


def manager(nodes: Mapping[str, str]) -> AsyncTransactionManager:
    """A manager with pools of one session, so that a turn that is lost is missed at once."""
    node = {name: NodeSettings(url=url, pool_size=1, acquire_timeout_s=3.0) for name, url in nodes.items()}
    return AsyncTransactionManager(Config(domain=DOMAIN, nodes=node, settings=Settings(settle=False)))


async def settle(tm: AsyncTransactionManager) -> None:
    """Settle until nothing is left."""
    for _ in range(ROUNDS_MAX):
        report = await tm.settle(grace_s=0)
        if not report.waiting and not report.unreachable:
            return
    raise AssertionError(f"still in doubt: {report}")


def await_sessions_gone(nodes: Mapping[str, str]) -> None:
    """Wait until the servers have noticed that every session of ours was closed."""
    for name in set(nodes) & set(OTHERS):
        assert any(query(nodes[name], OTHERS[name]) == [(0,)] for _ in range(LOOKS_MAX)), f"{name} has sessions left"


async def transact(
    tm: AsyncTransactionManager, names: Sequence[str], identifier: int, end: str, tell: Callable[[str], object]
) -> str:
    """A transaction that writes a row on each node; returns what its caller was told."""
    tx = tm.transaction(home=names[0], timeout=30)
    tell(tx.gid)
    insert = f"INSERT INTO work VALUES ({identifier})"
    with contextlib.suppress(*EXPECTED):
        async with tx:
            for name in names:
                connection = await tx.on(name)
                await run(connection, insert)
            if end == "refuse":
                # The row is there already, and the block does not care: the vote must be no.
                with contextlib.suppress(*EXPECTED):
                    await run(connection, insert)
            if end == "raise":
                raise Regret
    return tx.outcome.state


async def failing(nodes: Mapping[str, str], end: str, number: int, mode: str) -> str:
    """One call fails; what it was, or "" when there is none with that number."""
    names, fuse, gids = list(nodes), Fuse(number, mode), list[str]()
    identifier = next(IDS)
    with laid(fuse):
        async with manager(nodes) as tm:
            fuse.armed = True
            told = await transact(tm, names, identifier, end, gids.append)
            await settle(tm)
            fuse.armed = False
            later = await transact(tm, names, next(IDS), "commit", gids.append)
            await settle(tm)
            await purge_all(tm)
    ended = check(nodes, names, identifier, gids[0], told)
    assert later == "committed"
    if end != "commit" or not fuse.struck:
        assert ended == ENDS[end]
    return fuse.struck


@pytest.mark.parametrize(("names", "end"), CASES, ids=str)
@pytest.mark.parametrize("mode", ERRORS)
def test_by_errors(names: tuple[str, ...], end: str, mode: str, nodes: dict[str, str]) -> None:
    chosen = {name: nodes[name] for name in names}
    struck = list[str]()
    while what := asyncio.run(failing(chosen, end, len(struck) + 1, mode)):
        struck.append(what)
    assert len(struck) >= CALLS_MIN * len(names), struck
    await_sessions_gone(chosen)


def die(pipe: Connection, nodes: Mapping[str, str], end: str, identifier: int, number: int, mode: str) -> None:
    """In a process of its own: run a transaction, mark it complete, and be killed at one of the calls."""

    async def work() -> None:
        fuse = Fuse(number, mode)
        with laid(fuse):
            async with manager(nodes) as tm:
                fuse.armed = True
                told = await transact(tm, list(nodes), identifier, end, lambda gid: pipe.send({"gid": gid}))
                pipe.send({"told": told})
                await tm.engine.flush()
                fuse.armed = False

    asyncio.run(work())


async def finish(nodes: Mapping[str, str]) -> None:
    """Another process comes."""
    async with manager(nodes) as tm:
        await settle(tm)
        await purge_all(tm)


@pytest.mark.parametrize(("names", "end"), CASES, ids=str)
@pytest.mark.parametrize("mode", CRASHES)
def test_by_crashes(
    names: tuple[str, ...], end: str, mode: str, nodes: dict[str, str], start: Callable[..., Victim]
) -> None:
    chosen = {name: nodes[name] for name in names}
    for number in itertools.count(1):
        identifier = next(IDS)
        victim = start(die, nodes=chosen, end=end, identifier=identifier, number=number, mode=mode)
        code, told = victim.end(), victim.said.get("told")
        await_sessions_gone(chosen)
        asyncio.run(finish(chosen))
        ended = check(chosen, names, identifier, victim.said["gid"], told)
        if code == 0:
            assert ended == told == ENDS[end]
            break
        assert code == -signal.SIGKILL
        assert end == "commit" or ended == "aborted"
    assert number > CALLS_MIN * len(names)


@pytest.mark.parametrize(("mistake", "mode"), [("lost-is-abort", "error after"), ("lost-is-commit", "error before")])
def test_mistakes_are_caught(mistake: str, mode: str, nodes: dict[str, str]) -> None:
    chosen = {name: nodes[name] for name in ("postgresql", "mariadb")}

    async def every_call() -> None:
        for number in range(1, CALLS_MAX):
            await failing(chosen, "commit", number, mode)

    with switched_on(mistake), pytest.raises(AssertionError):
        asyncio.run(every_call())
    asyncio.run(finish(chosen))
