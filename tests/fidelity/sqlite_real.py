"""The real side of SQLite: processes of their own, each with a manager's node on one file; killed as by ``kill -9``."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import apsw

from nodoubt.engine.worlds import AsyncWorld
from nodoubt.journal.files import Files, Journal
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.failures import StatementFailed
from nodoubt.nodes.sqlite import SQLiteNode
from nodoubt.nodes.sqlite_install import install
from nodoubt.sim.server import Disk
from nodoubt.sim.workload import ACCOUNTS, BALANCE, LISTS
from tests.fidelity.actor import DOMAIN
from tests.fidelity.names import Names
from tests.fidelity.sqlite_sides import Process, SQLiteSide
from tests.fidelity.sqlite_work import Work

#: Forks from a process that has imported everything, and opened nothing.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__])
#: How long the test listens at a time.
LISTEN_S = 0.01


class WeakVFS(apsw.VFS):
    """SQLite's own, on a disk that may be full or fail."""

    NAME = "weak"

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        super().__init__(self.NAME, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return WeakFile(self._disk, name, flags)


class WeakFile(apsw.VFSFile):
    """A file on it."""

    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        super().__init__("", name, flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        if self._disk.full:
            raise apsw.exception_for(apsw.SQLITE_FULL)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if self._disk.fails:
            self._disk.fails = False
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
        super().xSync(flags)


class WeakFiles(Files):
    """The journal's calls on it."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def write(self, descriptor: int, data: memoryview) -> int:
        if self._disk.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self._force()
        super().fsync(descriptor)

    def fsync_folder(self, path: Path) -> None:
        self._force()
        super().fsync_folder(path)

    def _force(self) -> None:
        if self._disk.fails:
            self._disk.fails = False
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def serve(connection: Connection, path: Path, names: Names) -> None:
    """The life of a process: steps come in, lines and looks go out, and True at the end of a step."""

    async def live() -> None:
        disk = Disk()
        # The connections name it, but do not keep it alive.
        vfs = WeakVFS(disk)
        settings = NodeSettings(url=f"sqlite:///{path}", options={"vfs": vfs.NAME})
        node = SQLiteNode("home", DOMAIN, settings, AsyncWorld())
        node.journal = Journal(node.path, WeakFiles(disk))
        work = Work(node, disk, names, _use, connection.send)
        while True:
            verb, words = await asyncio.to_thread(connection.recv)
            await work.do(verb, words)
            connection.send(True)

    asyncio.run(live())


async def _use(connection: Any, sql: str, values: Sequence[Any]) -> Sequence[tuple[Any, ...]]:
    try:
        return list(connection.execute(sql, values))
    except apsw.Error as error:
        raise StatementFailed(str(apsw.mapping_result_codes[getattr(error, "result", 0) & 0xFF]), str(error)) from error


class RealProcess(Process):
    """See the module."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path, names: Names) -> None:
        super().__init__()
        self._loop = loop
        self._connection, theirs = _FORKS.Pipe()
        self._process = _FORKS.Process(target=serve, args=(theirs, path, names), daemon=True)
        self._process.start()
        theirs.close()
        loop.add_reader(self._connection.fileno(), self._hear)

    def begin(self, verb: str, words: Sequence[str]) -> asyncio.Future[bool]:
        self._connection.send((verb, words))
        return self._loop.create_future()

    def _hear(self) -> None:
        try:
            heard = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._loop.remove_reader(self._connection.fileno())
            self._connection.close()
            self.is_over(False)
            return
        if heard is True:
            self.is_over(True)
        else:
            self.tell(heard)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.is_dead = True


class RealSQLiteSide(SQLiteSide):
    """A fresh file."""

    def __init__(self, folder: Path) -> None:
        world = AsyncWorld()
        super().__init__(Names(world.unix_ms(), world.random))
        self._path = folder / "fidelity.db"
        install(self._path, "home", DOMAIN, "1234567890")
        with closing(sqlite3.connect(self._path)) as database, database:
            database.execute("CREATE TABLE list (id text PRIMARY KEY, items text NOT NULL)")
            database.execute(
                "CREATE TABLE account (id text PRIMARY KEY, balance int NOT NULL CONSTRAINT balance CHECK (balance >= 0))"
            )
            database.executemany("INSERT INTO list VALUES (?, '')", [(key,) for key in LISTS])
            database.executemany("INSERT INTO account VALUES (?, ?)", [(key, BALANCE) for key in ACCOUNTS])
        self._runner = asyncio.Runner()

    def start(self) -> RealProcess:
        self.processes.append(process := RealProcess(self._runner.get_loop(), self._path, self.names))
        return process

    def launch(self, step: Any) -> asyncio.Task[None]:
        return self._runner.get_loop().create_task(step)

    def go_on(self) -> None:
        self._runner.run(_listen([process.answer for process in self.processes if process.answer is not None]))

    def tables(self) -> list[str]:
        with closing(sqlite3.connect(self._path)) as database:
            tables = {
                name: database.execute(f"SELECT {columns} FROM {table}").fetchall()
                for name, (table, columns) in _TABLES.items()
            }
        record = Journal(self._path).read()
        is_prepared = record is not None and (record.branch.gid, record.branch.branch) not in tables["branch"]
        return self.table_lines(tables, [record.branch.text()] if record is not None and is_prepared else [])

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        self.go_on()
        self._runner.close()


_TABLES: Mapping[str, tuple[str, str]] = {
    "list": ("list", "id, items"),
    "account": ("account", "id, balance"),
    "decision": ("nodoubt_decision", "gid, decision, participants, complete, reason"),
    "branch": ("nodoubt_branch", "gid, branch"),
}


async def _listen(answers: Collection[asyncio.Future[bool]]) -> None:
    waiting = [answer for answer in answers if not answer.done()]
    if waiting:
        await asyncio.wait(waiting, timeout=LISTEN_S, return_when=asyncio.FIRST_COMPLETED)
    # What depends on an answer goes on behind it.
    turn = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turn.set_result, None)
    await turn
