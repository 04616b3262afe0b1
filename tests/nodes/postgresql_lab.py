"""A laboratory for PostgreSQL nodes: one scenario, written as a coroutine, runs with each of the three drivers."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

import psycopg

from nodoubt.engine.worlds import AsyncWorld, ThreadWorld, run_now
from nodoubt.nodes.contract import Answer
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.registry import make_node
from nodoubt.nodes.sql import SqlNode
from nodoubt.nodes.sql_branch import SqlBranch
from nodoubt.protocol.ids import BranchId, new_gid
from tests.conftest import DatabaseFactory

DRIVERS = ("asyncpg", "psycopg-async", "psycopg")
F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, None]])


class Lab:
    """Makes nodes and branches for one driver, and looks at their databases from outside."""

    def __init__(self, driver: str, database: DatabaseFactory) -> None:
        self.driver = driver
        self.is_async = driver != "psycopg"
        self.scheme = "postgresql+asyncpg" if driver == "asyncpg" else "postgresql+psycopg"
        self.database = database
        self.world: AsyncWorld | ThreadWorld = AsyncWorld() if self.is_async else ThreadWorld()
        self._nodes: list[SqlNode] = []
        self._outside: list[psycopg.Connection[Any]] = []

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        """Run a scenario in the driver's world and take everything down."""
        if isinstance(self.world, ThreadWorld):
            try:
                run_now(self._to_the_end(scenario))
            finally:
                self.world.close()
        else:
            asyncio.run(self._to_the_end(scenario))

    async def _to_the_end(self, scenario: Coroutine[Any, Any, None]) -> None:
        try:
            await scenario
        finally:
            for node in self._nodes:
                await node.close()
            for connection in self._outside:
                connection.close()

    def make(self, name: str, url: str, **settings: Any) -> SqlNode:
        """A node that is neither installed nor open."""
        url = url.replace("postgresql", self.scheme, 1)
        made = make_node(name, "shop", NodeSettings(url=url, **settings), self.world, asynchronous=self.is_async)
        self._nodes.append(cast(SqlNode, made))
        return self._nodes[-1]

    async def node(self, name: str = "stock", url: str = "", **settings: Any) -> SqlNode:
        """An open node with a table ``t (k int primary key)``."""
        url = url or self.database("postgresql")
        node = self.make(name, url, **settings)
        await node.install()
        await node.open()
        with psycopg.connect(url, autocommit=True) as setup:
            setup.execute("CREATE TABLE IF NOT EXISTS t (k int PRIMARY KEY)")
        return node

    async def branch(self, node: SqlNode, *, home: bool = False, read_only: bool = False) -> tuple[BranchId, SqlBranch]:
        """A new transaction's branch; home's is number 0, the other number 1."""
        gid = new_gid(time.time_ns() // 1_000_000, os.urandom(10))
        branch_id = BranchId(domain="shop", gid=gid, branch=0 if home else 1, home=node.name)
        return branch_id, await node.begin(branch_id, read_only=read_only, is_home=home)

    async def prepared(self, node: SqlNode, sql: str = "INSERT INTO t VALUES (1)") -> tuple[BranchId, SqlBranch]:
        """A branch that voted yes."""
        branch_id, branch = await self.branch(node)
        await self.do(branch.connection, sql)
        assert said(await branch.prepare()) == "yes"
        return branch_id, branch

    async def do(self, connection: Any, sql: str) -> None:
        """The user's call."""
        await settle(connection.execute(sql))

    async def nested(self, connection: Any, sql: str) -> None:
        """The user's call in a savepoint of the driver's own making."""
        if self.is_async:
            async with connection.transaction():
                await self.do(connection, sql)
        else:
            with connection.transaction():
                await self.do(connection, sql)

    async def rows(self, connection: Any, sql: str) -> list[tuple[Any, ...]]:
        """The user's query."""
        if self.driver == "asyncpg":
            return [tuple(row) for row in await connection.fetch(sql)]
        cursor = await settle(connection.execute(sql))
        rows: list[tuple[Any, ...]] = await settle(cursor.fetchall())
        return rows

    def outside(self, node: SqlNode) -> psycopg.Connection[Any]:
        """A session that has nothing to do with nodoubt."""
        url = node._settings.url
        self._outside.append(psycopg.connect(url, autocommit=True))
        return self._outside[-1]

    def keys(self, node: SqlNode) -> list[int]:
        """What is committed in ``t``."""
        return [key for (key,) in self.outside(node).execute("SELECT k FROM t ORDER BY k")]

    def terminate_all(self, node: SqlNode) -> None:
        """End every session of ours, as an administrator would; return when they are gone."""
        self.outside(node).execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'nodoubt' AND datname = current_database()"
        )

    def when_waiting(self, node: SqlNode, call: Callable[[], object]) -> threading.Thread:
        """From a thread: as soon as a session of ours waits for an advisory lock, make a call in the driver's own way."""
        outside = self.outside(node)
        loop = asyncio.get_running_loop() if self.is_async else None

        def watch() -> None:
            while not outside.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchone():
                pass
            if loop is None:
                call()
            else:
                loop.call_soon_threadsafe(call)

        thread = threading.Thread(target=watch)
        thread.start()
        return thread


async def settle(result: Any) -> Any:
    """What a driver's method gave, awaited if it must be."""
    return await result if inspect.isawaitable(result) else result


def said(answer: Answer) -> str:
    """The word of an answer."""
    return answer.said.value


def scenario(function: F) -> F:
    """Run an asynchronous test by its lab, in threads or in asyncio."""

    @functools.wraps(function)
    def run(**arguments: Any) -> None:
        (lab,) = (argument for argument in arguments.values() if isinstance(argument, Lab))
        lab.run(function(**arguments))

    return cast(F, run)
