"""The simulated side of SQLite: processes on one machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from types import SimpleNamespace
from typing import Any, cast

from nodoubt.nodes.dialect import NodeSettings
from nodoubt.sim.driver import SimulatedError
from nodoubt.sim.loop import ProcessLoop, Schedule
from nodoubt.sim.machine import Machine
from nodoubt.sim.observer import Observer
from nodoubt.sim.process import Clock, SimulatedWorld
from nodoubt.sim.server import EPOCH_S
from nodoubt.sim.sqlite_file import SQLiteDatabase
from nodoubt.sim.sqlite_node import SimulatedSQLiteNode
from tests.fidelity.actor import DOMAIN
from tests.fidelity.names import Names
from tests.fidelity.simulated import first_rows
from tests.fidelity.sqlite_sides import Process, SQLiteSide, run_step
from tests.fidelity.sqlite_work import Work

#: How far time goes at a time: longer than a call of the disk takes.
GO_S = 0.05


class SimulatedProcess(Process):
    """See the module."""

    def __init__(self, outside: ProcessLoop, database: SQLiteDatabase, names: Names) -> None:
        super().__init__()
        self._outside = outside
        self._database = database
        self.loop = ProcessLoop(outside.schedule, "process")
        world = SimulatedWorld(outside.schedule, Clock(), Random(4), database.machine.disk)
        self.loop.owner = SimpleNamespace(world=world)
        settings = NodeSettings(url=f"sqlite:///{database.path}")
        node = SimulatedSQLiteNode(database, DOMAIN, settings, world, self.loop)
        self._work = Work(node, database.machine.disk, names, _use, self.tell)

    def begin(self, verb: str, words: Sequence[str]) -> asyncio.Future[bool]:
        self.loop.create_task(run_step(self, self._work.do(verb, words)))
        return self._outside.create_future()

    def kill(self) -> None:
        self.loop.kill()
        self._database.killed(self.loop)
        self.is_over(False)


async def _use(connection: Any, sql: str, values: Sequence[Any]) -> Sequence[tuple[Any, ...]]:
    try:
        return cast(Sequence[tuple[Any, ...]], await connection.execute(sql, *values) or ())
    except SimulatedError as error:
        raise cast(Exception, error.__cause__) from None


class SimulatedSQLiteSide(SQLiteSide):
    """A fresh file."""

    def __init__(self) -> None:
        super().__init__(Names(int(EPOCH_S * 1000), Random(5).randbytes))
        self._schedule = Schedule()
        observer = Observer(lambda: self._schedule.now, traced=False)
        machine = Machine(self._schedule, observer, Random(6))
        self._database = SQLiteDatabase("home", machine, observer, first_rows())
        self._loop = ProcessLoop(self._schedule, "test")

    def start(self) -> SimulatedProcess:
        self.processes.append(process := SimulatedProcess(self._loop, self._database, self.names))
        return process

    def launch(self, step: Any) -> asyncio.Task[None]:
        return self._loop.create_task(step)

    def go_on(self) -> None:
        self._schedule.run(self._schedule.now + GO_S, 10_000)
        assert not self._schedule.bugs, self._schedule.bugs

    def tables(self) -> list[str]:
        tables = self._database.store.tables
        rows: dict[str, list[tuple[Any, ...]]] = {
            name: [(key, row) for key, row in tables[name].items()] for name in ("list", "account")
        }
        rows["decision"] = [(gid, row[0], row[1], int(row[2]), row[4]) for gid, row in tables["decision"].items()]
        return self.table_lines({**rows, "branch": list(tables["branch"])}, self._database.in_doubt())

    def close(self) -> None:
        for process in self.processes:
            cast(SimulatedProcess, process).loop.bury()
        self._loop.bury()
