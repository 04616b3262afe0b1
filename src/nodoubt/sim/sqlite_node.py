"""The real SQLite node, its bookkeeping of sessions and its journal, on a simulated file."""

from __future__ import annotations

from typing import Any

from nodoubt.journal.files import Journal
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.sqlite import SQLiteNode
from nodoubt.nodes.sqlite_line import Line
from nodoubt.nodes.sqlite_sessions import Sessions
from nodoubt.nodes.world import World
from nodoubt.sim.loop import ProcessLoop
from nodoubt.sim.machine import SimulatedFiles
from nodoubt.sim.sqlite import SimulatedSQLite
from nodoubt.sim.sqlite_file import SQLiteDatabase


class SimulatedSessions(Sessions):
    """The real bookkeeping of sessions, over played ones."""

    def __init__(self, database: SQLiteDatabase, world: World, loop: ProcessLoop) -> None:
        super().__init__(database.name, database.path, world, {})
        self._database = database
        self._loop = loop

    def new(self, *, for_branch: bool = False) -> Any:
        return SimulatedSQLite(self._database, self._loop)

    def is_moved(self) -> bool:
        return False

    def has_unseen(self) -> bool:
        return self._database.ghost is not None

    def line(self) -> Line:
        return _NoLine(self._database.path)


class _NoLine(Line):
    """The line is not played: everybody is first."""

    def __enter__(self) -> Line:
        self._first = True
        return self


class SimulatedSQLiteNode(SQLiteNode):
    """The real node, on a simulated file."""

    def __init__(self, database: SQLiteDatabase, domain: str, settings: NodeSettings, world: World, loop: ProcessLoop):
        super().__init__(database.name, domain, settings, world)
        self._database = database
        self.path = database.path
        self.journal = Journal(database.path, SimulatedFiles(database.machine, loop))
        self.sessions = SimulatedSessions(database, world, loop)

    def _force_wal(self) -> None:
        self._database.store.force(len(self._database.store.log))
