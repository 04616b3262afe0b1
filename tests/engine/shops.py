"""A shop with two databases, opened by either public manager: a scenario is written once, as a coroutine."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, TypeVar, cast

import psycopg

from nodoubt import AsyncTransactionManager, Outcome, TransactionManager
from nodoubt.engine.config import load
from nodoubt.engine.worlds import AsyncWorld, ThreadWorld, run_now
from nodoubt.nodes.registry import make_node
from tests.conftest import DatabaseFactory

MANAGERS = ("sync", "asyncpg", "psycopg")
F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, None]])


async def settle(result: Any) -> Any:
    """What a method of either manager gave, awaited if it must be."""
    return await result if inspect.isawaitable(result) else result


class Tx:
    """A transaction of either kind."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    @property
    def gid(self) -> str:
        return str(self.raw.gid)

    @property
    def outcome(self) -> Outcome:
        outcome: Outcome = self.raw.outcome
        return outcome

    async def on(self, name: str, **options: Any) -> Any:
        return await settle(self.raw.on(name, **options))

    async def do(self, name: str, statement: str) -> None:
        await settle((await self.on(name)).execute(statement))

    async def rollback(self) -> None:
        await settle(self.raw.rollback())

    async def __aenter__(self) -> Tx:
        await settle((self.raw.__aenter__ if hasattr(self.raw, "__aenter__") else self.raw.__enter__)())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        leave = self.raw.__aexit__ if hasattr(self.raw, "__aexit__") else self.raw.__exit__
        await settle(leave(kind, error, trace))


class Shop:
    """Two nodes, ``orders`` and ``stock``, each with a table ``t (k int primary key)``."""

    def __init__(self, kind: str, database: DatabaseFactory) -> None:
        self.is_async = kind != "sync"
        self.plain = {name: database("postgresql") for name in ("orders", "stock")}
        driver = "asyncpg" if kind == "asyncpg" else "psycopg"
        self.urls = {name: url.replace("postgresql", f"postgresql+{driver}") for name, url in self.plain.items()}
        self._looking: dict[str, psycopg.Connection[Any]] = {}

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        """Run a scenario against installed databases."""
        try:
            if self.is_async:
                asyncio.run(self._installed(scenario, AsyncWorld()))
            else:
                run_now(self._installed(scenario, ThreadWorld()))
        finally:
            for connection in self._looking.values():
                connection.close()

    async def _installed(self, scenario: Coroutine[Any, Any, None], world: AsyncWorld | ThreadWorld) -> None:
        try:
            for name, settings in load(self.urls, domain="shop").nodes.items():
                await make_node(name, "shop", settings, world, asynchronous=self.is_async).install()
                self.look(name, "CREATE TABLE t (k int PRIMARY KEY)")
        finally:
            if isinstance(world, ThreadWorld):
                world.close()
        await scenario

    @asynccontextmanager
    async def open(self, **settings: Any) -> AsyncIterator[Any]:
        """An open manager of the public kind."""
        if self.is_async:
            async with AsyncTransactionManager.open(self.urls, domain="shop", **settings) as tm:
                yield tm
        else:
            with TransactionManager.open(self.urls, domain="shop", **settings) as sync_tm:
                yield sync_tm

    def look(self, name: str, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement on a database from outside."""
        if name not in self._looking:
            self._looking[name] = psycopg.connect(self.plain[name], autocommit=True)
        cursor = self._looking[name].execute(statement.encode())
        return cursor.fetchall() if cursor.description else []

    def keys(self) -> dict[str, list[int]]:
        """What is committed."""
        return {name: [key for (key,) in self.look(name, "SELECT k FROM t ORDER BY k")] for name in self.plain}

    def prepared(self) -> int:
        """How many branches are left prepared."""
        count = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"
        return sum(int(self.look(name, count)[0][0]) for name in self.plain)


async def both(tx: Tx, key: int = 1) -> None:
    """A little work on both nodes; ``orders`` becomes home."""
    await tx.do("orders", f"INSERT INTO t VALUES ({key})")
    await tx.do("stock", f"INSERT INTO t VALUES ({key})")


def scenario(function: F) -> F:
    """Run an asynchronous test by its shop, in threads or in asyncio."""

    @functools.wraps(function)
    def run(**arguments: Any) -> None:
        (shop,) = (argument for argument in arguments.values() if isinstance(argument, Shop))
        shop.run(function(**arguments))

    return cast(F, run)
