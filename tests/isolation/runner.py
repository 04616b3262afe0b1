"""Runs scripts by the public manager: a task for each transaction, and one step at a time.

After each step all is awaited that moves by itself: every transaction has done what it was told, stands at a gate, or waits for
a lock, as the servers tell.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from unittest.mock import patch

from nodoubt import AsyncSnapshot, AsyncTransaction, AsyncTransactionManager, NodoubtError
from nodoubt.engine import instant
from nodoubt.engine.worlds import AsyncWorld
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.registry import make_node
from tests.crash.harness import query
from tests.isolation.gates import Gate, Gates
from tests.isolation.grounds import Ground
from tests.isolation.locks import Count, watching
from tests.isolation.notation import (
    NODES,
    SETUP,
    STATE,
    TABLE,
    Commits,
    GoesOn,
    RollsBack,
    Script,
    Seen,
    Statement,
    Step,
)
from tests.isolation.promises import Begun, begin
from tests.isolation.scripts import SCRIPTS
from tests.isolation.verdict import Run

DOMAIN = "isolation"

#: How long the news of a step is waited for before the servers are asked who waits.
LOOK_S = 0.01
#: A script in which nothing moves for so long, and nobody waits for a lock, hangs.
PATIENCE_S = 30
#: A lock is waited for as long as it takes: who stands still in a script is seen by the runner, not by a clock.
LOCK_WAIT_S = 60.0


class Actor:
    """One transaction of a script, in a task of its own."""

    def __init__(self, tx: Begun, news: asyncio.Event, reads: dict[str, Any]) -> None:
        self.tx = tx
        self.gate: Gate | None = None
        self.error: BaseException | None = None
        self._reads = reads
        self._news = news
        self._orders: asyncio.Queue[Step] = asyncio.Queue()
        self._busy = False
        self.task = asyncio.create_task(self._live())

    @property
    def moves(self) -> bool:
        """Whether it has something to do and does not stand at a gate."""
        return self._busy and not self.task.done() and not (self.gate is not None and self.gate.holds)

    @property
    def has_committed(self) -> bool:
        if isinstance(self.tx, AsyncSnapshot):
            return self.task.done() and self.error is None
        return self.tx.outcome.state == "committed"

    @property
    def may_retry(self) -> bool:
        """Whether what it failed of is an error after which it may be run again."""
        if self.error is None or isinstance(self.tx, AsyncSnapshot):
            return isinstance(self.error, NodoubtError) and self.error.retryable
        return self.tx.may_retry(self.error)

    def order(self, step: Step) -> None:
        self._busy = True
        self._orders.put_nowait(step)

    async def _live(self) -> None:
        try:
            async with self.tx:
                while isinstance(step := await self._orders.get(), Statement):
                    await self._do(step)
                    self._busy = False
                    self._news.set()
                if isinstance(step, RollsBack) and isinstance(self.tx, AsyncTransaction):
                    await self.tx.rollback()
        except (Exception, asyncio.CancelledError) as error:
            self.error = error
        finally:
            self._news.set()

    async def _do(self, step: Statement) -> None:
        if isinstance(self.tx, AsyncSnapshot):
            connection = await self.tx.on(step.node)
        else:
            connection = await self.tx.on(step.node, read_only=step.read_only)
        if step.fails:
            with suppress(Exception):
                await ask(connection, step.sql)
            return
        rows = await ask(connection, step.sql.format_map(self._reads))
        if step.label:
            ((self._reads[step.label],),) = rows


class Stage:
    """An open manager on four nodes, on which one script runs after another."""

    def __init__(self, tm: AsyncTransactionManager, ground: Ground, waiting: Count) -> None:
        self._tm = tm
        self._ground = ground
        #: Of the script that runs: what was read, and its transactions in the order in which they began.
        self._reads: dict[str, Any] = {}
        self._actors: dict[str, Actor] = {}
        self._waiting = waiting
        self._gates = Gates(tm.engine.nodes)
        self._news = asyncio.Event()

    async def run(self, script: Script) -> Run:
        """Run a script from fresh tables to the end of all of its transactions."""
        await self._on_all(*SETUP)
        self._reads, self._actors, before = {}, {}, set[tuple[str, str]]()
        waited: set[str] = set()
        given_up: set[str] = set()
        todo = list(script.steps)
        while todo or self._moving():
            # Where a commit lets several go on, still only one takes a step at a time: no race decides what is seen.
            step = next((step for step in todo if step.who not in self._moving()), None)
            if step is None:
                given_up.add(await self._give_up())
            else:
                todo.remove(step)
                if step.who not in self._actors:
                    before |= {(name, step.who) for name, actor in self._actors.items() if actor.task.done()}
                    self._begin(script, step.who)
                self._take(step)
            waited |= await self._rest()
        await asyncio.gather(*(actor.task for actor in self._actors.values()))
        failed = {name for name, actor in self._actors.items() if not actor.has_committed} - script.aborting
        for name in failed - given_up:
            actor = self._actors[name]
            if not actor.may_retry:
                raise AssertionError(f"{script.name}: {name} failed for a reason of its own") from actor.error
        seen = Seen(
            reads=self._reads,
            committed=frozenset(self._actors) - failed - script.aborting,
            state={name: dict(rows) for name, rows in (await self._on_all(STATE)).items()},
        )
        return Run(
            seen=seen,
            waited=frozenset(waited),
            failed=frozenset(failed),
            given_up=frozenset(given_up),
            before=frozenset(before),
        )

    def _begin(self, script: Script, who: str) -> None:
        tx = begin(self._tm, self._ground.asked, script, who, self._ground.home)
        self._actors[who] = Actor(tx, self._news, self._reads)

    def _moving(self) -> set[str]:
        return {name for name, actor in self._actors.items() if actor.moves}

    async def _give_up(self) -> str:
        """All that are left wait for each other: end the youngest, as its time-out would."""
        name, actor = [(name, actor) for name, actor in self._actors.items() if actor.moves][-1]
        actor.task.cancel()
        await asyncio.wait({actor.task})
        return name

    def _take(self, step: Step) -> None:
        actor = self._actors[step.who]
        match step:
            case GoesOn():
                assert actor.gate is not None
                actor.gate.open.set()
                return
            case Commits(held=node) if node:
                assert isinstance(actor.tx, AsyncTransaction)
                actor.gate = self._gates.shut(actor.tx.gid, node)
        actor.order(step)

    async def _rest(self) -> set[str]:
        """Wait until nothing moves by itself; returns who waits for a lock, or had to finish what was held back."""
        helped, helpers = self._gates.helped, set[str]()
        async with asyncio.timeout(PATIENCE_S):
            while moving := self._moving():
                if not await self._hears() and self._waiting() >= len(moving):
                    break
                if self._gates.helped > helped:
                    helpers |= moving
        return moving | helpers

    async def _hears(self) -> bool:
        """Wait a moment for the news that somebody did a step."""
        self._news.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), LOOK_S)
        return self._news.is_set()

    async def _on_all(self, *statements: str) -> dict[str, list[tuple[Any, ...]]]:
        """Run statements on every node in one transaction; returns the rows of the last."""
        read_only = statements == (STATE,)
        rows: dict[str, list[tuple[Any, ...]]] = {}
        async with self._tm.transaction(home=self._ground.home) as tx:
            for node in NODES:
                connection = await tx.on(node, read_only=read_only)
                for sql in statements:
                    rows[node] = await ask(connection, sql)
        assert not tx.outcome.pending
        return rows


async def runs(grounds: Iterable[Ground], database: Callable[[Any], str]) -> AsyncIterator[tuple[Ground, Script, Run]]:
    """Run all scripts on grounds of the same kinds of nodes.

    ``database`` makes a database on the server of that name and returns its URL.
    """
    urls: dict[str, str] = {}
    for ground in grounds:
        if not urls:
            urls = {node: database(ground.server(node)) for node in NODES}
            await furnish(urls)
        async with stage(ground, urls) as here:
            for script in SCRIPTS.values():
                yield ground, script, await here.run(script)


async def furnish(urls: Mapping[str, str]) -> None:
    """Make nodoubt's tables and the one that scripts use."""
    for name, url in urls.items():
        await make_node(name, DOMAIN, NodeSettings(url=url), AsyncWorld(), asynchronous=True).install()
        query(url, TABLE)
        if url.startswith("postgresql"):
            # Plans, and with them what SERIALIZABLE locks, must not change in the middle.
            query(url, "ALTER TABLE item SET (autovacuum_enabled = off)")


@asynccontextmanager
async def stage(ground: Ground, urls: Mapping[str, str]) -> AsyncIterator[Stage]:
    """Open the nodes of a ground, each at its level. ``urls`` are of databases that are installed."""
    async with open_manager(ground, urls) as tm:
        with watching(urls, tm.engine) as waiting, patch.object(instant, "GATE_WAIT_S", LOCK_WAIT_S):
            yield Stage(tm, ground, waiting)


def open_manager(ground: Ground, urls: Mapping[str, str]) -> AsyncTransactionManager:
    """A manager of nodes at their levels. Nothing but the script's own steps takes a lock: the background has nothing to do."""
    nodes = {name: ground.settings(name, url) for name, url in urls.items()}
    return AsyncTransactionManager.open(
        nodes, domain=DOMAIN, settle=False, forget_every_s=3600, lock_wait_s=LOCK_WAIT_S
    )


async def ask(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    """Run a statement by whichever driver's own connection this is; returns its rows."""
    if hasattr(connection, "fetch"):
        return [tuple(row) for row in await connection.fetch(sql)]
    if not hasattr(connection, "execute"):
        async with connection.cursor() as cursor:
            await cursor.execute(sql)
            return list(await cursor.fetchall())
    rows = connection.execute(sql)
    return list(await rows if inspect.isawaitable(rows) else rows)
