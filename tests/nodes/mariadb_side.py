"""One story, told to both drivers: what a test of the MariaDB adapter needs of each world."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Sequence
from typing import Any, Literal, TypeVar, cast

import pymysql

from nodoubt.engine.worlds import AsyncWorld, ThreadWorld, run_now
from nodoubt.nodes.contract import Branch
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.registry import make_node
from nodoubt.nodes.sql import SqlNode
from nodoubt.nodes.world import World
from nodoubt.protocol.ids import BranchId, new_gid
from tests import plain

T = TypeVar("T")
DriverName = Literal["aiomysql", "pymysql"]
TABLE = "CREATE TABLE item (id INT PRIMARY KEY, v INT NOT NULL) ENGINE=InnoDB"


class Outsider:
    """A connection that knows nothing of nodoubt: an operator, or another program."""

    def __init__(self, url: str) -> None:
        self._raw = plain.mariadb(url, user="root")

    def __call__(self, sql: str) -> Sequence[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        with self._raw.cursor() as cursor:
            cursor.execute(sql)
            rows: Sequence[tuple[Any, ...]] = cursor.fetchall()
            return rows

    def error(self, sql: str) -> int:
        """The number of the error that a statement gives; 0 if it succeeds."""
        try:
            self(sql)
        except pymysql.err.MySQLError as error:
            return int(error.args[0])
        return 0

    def close(self) -> None:
        self._raw._force_close()  # type: ignore[attr-defined]


class Side:
    """A driver in its world."""

    def __init__(self, driver: DriverName) -> None:
        self.driver = driver
        self.domain = f"d{secrets.token_hex(6)}"
        self._loop = asyncio.Runner() if driver == "aiomysql" else None
        self.world: World = AsyncWorld() if self._loop else ThreadWorld()
        self._nodes: list[SqlNode] = []
        self._branches: list[Branch] = []
        self._outsiders: list[Outsider] = []

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        """Take a story to its end."""
        return self._loop.run(step) if self._loop else run_now(step)

    def outsider(self, url: str) -> Outsider:
        self._outsiders.append(Outsider(url))
        return self._outsiders[-1]

    def make(self, url: str, name: str = "stock", **settings: Any) -> SqlNode:
        """A node that is neither installed nor open."""
        wanted = NodeSettings(url=url, **{"lock_timeout_s": 1, **settings})
        node = make_node(name, self.domain, wanted, self.world, asynchronous=self._loop is not None)
        self._nodes.append(cast(SqlNode, node))
        return self._nodes[-1]

    async def node(self, url: str, name: str = "stock", **settings: Any) -> SqlNode:
        """A node that is installed and open."""
        node = self.make(url, name, **settings)
        await node.install()
        await node.open()
        return node

    def id(self, branch: int = 1, *, gid: str = "", home: str = "orders") -> BranchId:
        gid = gid or new_gid(self.world.unix_ms(), self.world.random(10))
        return BranchId(domain=self.domain, gid=gid, branch=branch, home=home)

    async def begin(
        self, node: SqlNode, own: BranchId | None = None, *, read_only: bool = False, is_home: bool = False
    ) -> Branch:
        branch = await node.begin(own or self.id(), read_only=read_only, is_home=is_home)
        self._branches.append(branch)
        return branch

    async def sql(self, connection: Any, text: str, *arguments: Any, cursor: str = "Cursor") -> Sequence[Any]:
        """Run a statement of the user by a cursor of the named class."""
        if self._loop is None:
            with connection.cursor(getattr(pymysql.cursors, cursor)) as sync:
                sync.execute(text, arguments or None)
                return list(sync.fetchall())
        import aiomysql

        async with connection.cursor(getattr(aiomysql, cursor)) as opened:
            await opened.execute(text, arguments or None)
            return list(await opened.fetchall())

    def close(self) -> None:
        """End what the test left open."""
        self.run(self._close())
        for outsider in self._outsiders:
            outsider.close()
        if self._loop is not None:
            self._loop.close()
        if isinstance(self.world, ThreadWorld):
            self.world.close()

    async def _close(self) -> None:
        for branch in self._branches:
            branch.abandon()
        for node in self._nodes:
            await node.close()
