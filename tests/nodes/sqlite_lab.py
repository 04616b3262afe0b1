"""What the tests of SQLite share: nodes on real files, driven step by step in either world."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import apsw

from nodoubt.engine.worlds import AsyncWorld, ThreadWorld, run_now
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.sqlite import SQLiteNode
from nodoubt.nodes.sqlite_branch import SQLiteBranch
from nodoubt.protocol.ids import BranchId, new_gid

T = TypeVar("T")
WorldName = Literal["asyncio", "threads"]

ACCOUNTS = "CREATE TABLE account (id integer PRIMARY KEY, amount integer NOT NULL); INSERT INTO account VALUES (1, 100)"
TAKE = "UPDATE account SET amount = amount - 10 WHERE id = 1"
AMOUNT = "SELECT amount FROM account"
SCHEMA = """
CREATE TABLE item (id integer PRIMARY KEY, amount integer NOT NULL CHECK (amount >= 0), note text);
CREATE TABLE bare (x);
CREATE TABLE loose (key text PRIMARY KEY, x);
CREATE TABLE pair (a, b, x, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE counted (id integer PRIMARY KEY AUTOINCREMENT, x);
CREATE TABLE log (id integer PRIMARY KEY, text);
CREATE TRIGGER item_log AFTER UPDATE ON item BEGIN INSERT INTO log (text) VALUES ('item ' || new.id); END;
CREATE TRIGGER rough BEFORE INSERT ON item WHEN new.amount > 1000 BEGIN SELECT RAISE(ROLLBACK, 'too much'); END;
CREATE TABLE parent (id integer PRIMARY KEY);
CREATE TABLE child (id integer PRIMARY KEY, parent REFERENCES parent ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED);
CREATE VIEW seen AS SELECT id, amount FROM item;
CREATE TRIGGER seen_insert INSTEAD OF INSERT ON seen BEGIN INSERT INTO item VALUES (new.id, new.amount, 'seen'); END;
CREATE VIRTUAL TABLE words USING fts5(text);
INSERT INTO item VALUES (1, 10, 'one'), (2, 20, 'two');
INSERT INTO loose VALUES (NULL, 1), ('a', 2);
INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1, 1);
"""


class Lab:
    """Nodes of one test in one world; ``run`` takes a step to its end."""

    def __init__(self, folder: Path, world: WorldName) -> None:
        self.folder = folder
        self._runner = asyncio.Runner() if world == "asyncio" else None
        self.world: AsyncWorld | ThreadWorld = AsyncWorld() if world == "asyncio" else ThreadWorld()
        self._nodes: list[SQLiteNode] = []
        self._gids = 0

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(step) if self._runner is not None else run_now(step)

    def close(self) -> None:
        for node in self._nodes:
            self.run(node.close())
        if self._runner is not None:
            self._runner.close()
        if isinstance(self.world, ThreadWorld):
            self.world.close()

    def path(self, name: str = "shop") -> Path:
        return self.folder / f"{name}.db"

    def settings(self, name: str = "shop", **changed: Any) -> NodeSettings:
        times = {"acquire_timeout_s": 0.3, "lock_timeout_s": 0.2}
        return NodeSettings(url=f"sqlite:///{self.path(name)}", **times | changed)

    def node(self, name: str = "shop", *, schema: str = "", opened: bool = True, **changed: Any) -> SQLiteNode:
        """A node on its file, installed; a second one of a name is as if of another process."""
        node = SQLiteNode(name, "lab", self.settings(name, **changed), self.world)
        if not self.path(name).exists():
            self.run(node.install())
            if schema:
                with self.raw(name) as raw:
                    raw.execute(schema)
        if opened:
            self.run(node.open())
            self._nodes.append(node)
        return node

    def id(self, branch: int = 1, home: str = "home") -> BranchId:
        self._gids += 1
        return BranchId(domain="lab", gid=new_gid(1_700_000_000_000 + self._gids, bytes(10)), branch=branch, home=home)

    def begin(
        self, node: SQLiteNode, branch: BranchId | None = None, *, home: bool = False, read_only: bool = False
    ) -> SQLiteBranch:
        return self.run(node.begin(branch or self.id(), read_only=read_only, is_home=home))

    @contextmanager
    def raw(self, name: str = "shop") -> Iterator[apsw.Connection]:
        """A connection of somebody who knows nothing of nodoubt."""
        raw = apsw.Connection(str(self.path(name)))
        try:
            yield raw
        finally:
            raw.close()

    def rows(self, sql: str, name: str = "shop") -> list[Any]:
        with self.raw(name) as raw:
            return raw.execute(sql).fetchall()

    def amount(self) -> int:
        """What is left of ``ACCOUNTS``."""
        ((amount,),) = self.rows(AMOUNT)
        return int(amount)
