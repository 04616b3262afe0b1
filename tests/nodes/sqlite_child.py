"""A process of its own that works on SQLite nodes, and may kill itself at an exact point. A program, not a test.

``python sqlite_child.py crash FOLDER POINT`` moves 10 from ``left`` (home) to ``right`` and dies at POINT.
``python sqlite_child.py settle FOLDER POINT`` settles what another one left, and dies at POINT.
``python sqlite_child.py move FOLDER COUNT`` moves COUNT times back and forth, with retries, and prints how often it did.
``python sqlite_child.py hammer FOLDER NAME`` writes on one node, again and again, until its standard input ends.
``python sqlite_child.py vanish FOLDER NAME`` doubles what is there, and dies in COMMIT when all is written and nobody sees it.
``python sqlite_child.py gate FOLDER NAME`` closes the gate of one node and says so, until its standard input ends.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import apsw

from nodoubt import Aborted, AsyncTransactionManager, NodeUnavailable
from nodoubt.engine.worlds import AsyncWorld
from nodoubt.journal.files import Files, Journal
from nodoubt.nodes import sqlite_tables
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.sqlite import SQLiteNode
from nodoubt.nodes.sqlite_wal import HEADER_BYTES

#: Time-outs that let a test see a lock that stays taken soon enough, and a busy machine do its work.
TIMES = {"acquire_timeout_s": 20.0, "lock_timeout_s": 1.0}


def nodes(folder: Path) -> dict[str, dict[str, Any]]:
    return {name: {"url": f"sqlite:///{folder / name}.db", **TIMES} for name in ("left", "right")}


def die(*_: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit("still alive")


class DyingFiles(Files):
    def __init__(self, call: str, *, done: bool) -> None:
        real = getattr(self, call)

        def last(*arguments: Any) -> Any:
            if done:
                real(*arguments)
            die()

        setattr(self, call, last)


async def crash(folder: Path, point: str) -> None:
    kind, _, name = point.partition(" ")

    def watch(seen: str, gid: str, what: Any) -> None:
        if (seen, type(what).__name__) == (kind, name):
            die()

    async with AsyncTransactionManager.open(nodes(folder), domain="lab", watch=watch, settle=False) as tm:
        mine(tm, kind, name)
        async with tm.transaction() as tx:
            left = await tx.on("left")
            left.execute("UPDATE account SET amount = amount - 10")
            (await tx.on("right")).execute("UPDATE account SET amount = amount + 10")


def mine(tm: AsyncTransactionManager, kind: str, name: str) -> None:
    """Lay the points that no order or fact marks."""
    right: Any = tm.nodes["right"]
    if kind in ("before", "after"):
        right.journal = Journal(right.path, DyingFiles(name, done=kind == "after"))
    if kind == "evidence":
        vars(sqlite_tables)["delete_evidence"] = die


async def settle(folder: Path, point: str) -> None:
    kind, _, name = point.partition(" ")
    async with AsyncTransactionManager.open(nodes(folder), domain="lab", settle=False) as tm:
        mine(tm, kind, name)
        await tm.engine.settle(grace_s=0)


async def move(folder: Path, count: str) -> None:
    moved = 0
    async with AsyncTransactionManager.open(nodes(folder), domain="lab", settle_every_s=0.2) as tm:
        for _ in range(int(count)):
            source = random.choice(("left", "right"))

            async def work(tx: Any, source: str = source) -> None:
                # Always in the same order, as everybody does who takes two locks.
                for name in ("left", "right"):
                    change = -1 if name == source else 1
                    (await tx.on(name)).execute("UPDATE account SET amount = amount + ?", (change,))

            try:
                await tm.run(work, attempts=10)
                moved += 1
            except (Aborted, NodeUnavailable):
                continue
    print(moved)


async def hammer(folder: Path, name: str) -> None:
    standing = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    async with AsyncTransactionManager.open(nodes(folder), domain="lab", settle=False) as tm:
        first = True
        while not standing.done():
            async with tm.transaction() as tx:
                (await tx.on(name)).execute("UPDATE account SET amount = amount + 1")
            if first:
                print("at work", flush=True)
            first = False


class DyingFile(apsw.VFSFile):
    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        # The header of a new file is forced by itself.
        if self.xFileSize() > HEADER_BYTES:
            die()


class DyingVFS(apsw.VFS):
    """Whoever works through it dies when a WAL file is on the disk."""

    def __init__(self) -> None:
        super().__init__("dying", "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return (DyingFile if flags[0] & apsw.SQLITE_OPEN_WAL else apsw.VFSFile)("", name, flags)


async def vanish(folder: Path, name: str) -> None:
    _ = DyingVFS()
    raw = apsw.Connection(str(folder / f"{name}.db"), vfs="dying")
    raw.execute("PRAGMA synchronous = FULL; UPDATE account SET amount = amount * 2")


async def gate(folder: Path, name: str) -> None:
    node = SQLiteNode(name, "lab", NodeSettings(url=f"sqlite:///{folder / name}.db"), AsyncWorld())
    await node.open()
    await node.close_gate(TIMES["acquire_timeout_s"])
    print("closed", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    task, where, argument = sys.argv[1:]
    tasks = {"crash": crash, "settle": settle, "move": move, "hammer": hammer, "vanish": vanish, "gate": gate}
    asyncio.run(tasks[task](Path(where), argument))
