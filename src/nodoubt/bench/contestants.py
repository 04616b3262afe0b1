"""Who takes part, and how each does its work. Where fairness can be argued about, the docstring says what was chosen.

All: one loop, one connection per client and node, opened before the clock runs; each client runs one transaction after
another; the statements of the work are sent one after another, as user code does.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from nodoubt.bench.grounds import install
from nodoubt.bench.lines import KINDS, Line, kind_of
from nodoubt.bench.work import DOMAIN, Options, amount, keys
from nodoubt.engine.asynchronous import AsyncTransactionManager

#: Connections for what goes on beside the clients.
SPARE = 8

NODOUBT = "nodoubt"
HAND_WRITTEN = "hand-written 2PC"
SQLALCHEMY = "SQLAlchemy twophase"
TWO_COMMITS = "two unprotected commits"
PLAIN_COMMIT = "plain commit"


class Contestant(ABC):
    """Opened once, then takes part in every round."""

    name: ClassVar[str]
    note: ClassVar[str]
    #: Whether its transactions move money.
    moves: ClassVar[bool] = True

    def __init__(self, urls: Sequence[str], options: Options) -> None:
        self.urls = urls
        self.options = options

    @abstractmethod
    async def open(self) -> None:
        """Open all connections."""

    @abstractmethod
    async def run(self, lap: int, seconds: float) -> list[float]:
        """Let all clients work for so long; return the seconds that each of their transactions took."""

    async def calm(self) -> None:
        """Do what was put off: the lap's clock runs until then. Most put nothing off."""
        return

    @abstractmethod
    async def close(self) -> None:
        """Close all connections."""


class AsyncContestant(Contestant):
    """One whose clients are tasks."""

    async def run(self, lap: int, seconds: float) -> list[float]:
        latencies: list[float] = []
        deadline = time.perf_counter() + seconds
        clients = range(self.options.clients)
        await asyncio.gather(*(self._client(n, keys(self.options.seed, lap, n), deadline, latencies) for n in clients))
        return latencies

    async def _client(self, client: int, key: Callable[[], int], deadline: float, latencies: list[float]) -> None:
        while (began := time.perf_counter()) < deadline:
            await self.transact(client, key)
            latencies.append(time.perf_counter() - began)

    @abstractmethod
    async def transact(self, client: int, key: Callable[[], int]) -> None:
        """Run one transaction."""


class Nodoubt(AsyncContestant):
    """nodoubt by its public interface, with the background at work as always. The lap's time includes forgetting:
    what is not yet marked complete at the end is marked before the clock stops."""

    name = NODOUBT
    note = "public interface, decision row and evidence rows, background forgetting flushed within the lap's time"

    async def open(self) -> None:
        names = await install(self.urls)
        nodes = {
            name: {"url": url, "pool_size": self.options.clients + SPARE}
            for name, url in zip(names, self.urls, strict=True)
        }
        self._manager = AsyncTransactionManager.open(nodes, domain=DOMAIN)
        await self._manager.__aenter__()
        updates = [KINDS[kind_of(url)].update for url in self.urls]
        self._work = [
            (name, update, amount(number)) for number, (name, update) in enumerate(zip(names, updates, strict=True))
        ]

    async def transact(self, client: int, key: Callable[[], int]) -> None:
        async with self._manager.transaction() as tx:
            for name, update, change in self._work:
                await update(await tx.on(name), key(), change)

    async def calm(self) -> None:
        await self._manager.engine.flush()

    async def close(self) -> None:
        await self._manager.__aexit__(None, None, None)


class Bare(AsyncContestant):
    """One that speaks to the drivers itself."""

    async def open(self) -> None:
        self._kinds = [KINDS[kind_of(url)] for url in self.urls]
        self._lines: list[list[Line]] = []
        for _ in range(self.options.clients):
            self._lines.append([await kind.connect(url) for kind, url in zip(self._kinds, self.urls, strict=True)])
        self._numbers = itertools.count()

    async def work(self, lines: Sequence[Line], key: Callable[[], int], name: str | None) -> None:
        """Begin and update on one node after the other."""
        for number, (line, kind) in enumerate(zip(lines, self._kinds, strict=True)):
            await line.begin(name and f"{name}-{number}")
            await kind.update(line.connection, key(), amount(number))

    async def close(self) -> None:
        for line in itertools.chain.from_iterable(self._lines):
            await line.close()


class HandWritten(Bare):
    """Parallel two-phase commit with no record of any decision: after a crash nobody can tell what to do.

    The strictest peer: nothing but the statements themselves. It checks no tags and handles no failure.
    """

    name = HAND_WRITTEN
    note = "bare driver, PREPARE on both nodes in parallel, then COMMIT PREPARED in parallel; no record, no recovery"

    async def transact(self, client: int, key: Callable[[], int]) -> None:
        lines, name = self._lines[client], f"bench-{next(self._numbers)}"
        await self.work(lines, key, name)
        # A name per node: two nodes may be databases of one server, whose names are one namespace.
        branches = [(line, f"{name}-{number}") for number, line in enumerate(lines)]
        await asyncio.gather(*(line.prepare(branch) for line, branch in branches))
        await asyncio.gather(*(line.commit_prepared(branch) for line, branch in branches))


class Unprotected(Bare):
    """Both commits in parallel: a crash between them, or one that fails, leaves one half."""

    name = TWO_COMMITS
    note = "bare driver, both COMMITs in parallel; not atomic"

    async def transact(self, client: int, key: Callable[[], int]) -> None:
        lines = self._lines[client]
        await self.work(lines, key, None)
        await asyncio.gather(*(line.commit() for line in lines))


class PlainCommit(Bare):
    """One node, one commit, and no way to learn the outcome when its reply is lost."""

    name = PLAIN_COMMIT
    note = "bare driver, one COMMIT; a lost reply stays unknown"

    async def transact(self, client: int, key: Callable[[], int]) -> None:
        lines = self._lines[client]
        await self.work(lines, key, None)
        await lines[0].commit()
