"""A SQLite-like database file: its rows, its write lock, its WAL file, and the journal beside it.

A commit is written, forced, and only then seen; who dies in between leaves frames that others overwrite, or that are found again
when the next one opens the file after all had gone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nodoubt.journal.files import SUFFIX
from nodoubt.journal.record import JournalDamaged, decode
from nodoubt.sim.loop import ProcessLoop
from nodoubt.sim.machine import Machine
from nodoubt.sim.observer import Observer
from nodoubt.sim.server import EPOCH_S
from nodoubt.sim.store import Record, Store, Tables

if TYPE_CHECKING:
    from nodoubt.sim.sqlite import SimulatedSQLite

#: There is no such folder outside.
FOLDER = Path("/simulated")


class SQLiteDatabase:
    """One database file, and its write lock."""

    kind = "sqlite"
    decision_columns = 5

    def __init__(self, name: str, machine: Machine, observer: Observer, initial: Tables) -> None:
        self.name = name
        self.machine = machine
        self.observer = observer
        self.store = Store(initial)
        self.path = FOLDER / f"{name}.db"
        self._journal = self.path.with_name(self.path.name + SUFFIX)
        self.writer: SimulatedSQLite | None = None
        self.sessions: list[SimulatedSQLite] = []
        #: A commit that is in the WAL file, and that nobody sees.
        self.ghost: Record | None = None
        self.completing: Callable[[str], None] = lambda gid: None

    def clock_s(self) -> float:
        """Seconds since 1970."""
        return EPOCH_S + self.machine.schedule.now

    def in_doubt(self) -> list[str]:
        """The journalled branch that is not in the database, if there is one."""
        inode = self.machine.files.get(self._journal)
        if inode is None:
            return []
        try:
            branch = decode(inode.content).branch
        except JournalDamaged:
            self.observer.violation(f"the journal of {self.name} is damaged")
            return []
        return [] if (branch.gid, branch.branch) in self.store.tables["branch"] else [branch.text()]

    def opened(self, session: SimulatedSQLite) -> None:
        """The first one to open the file after all had gone reads the WAL file again."""
        if not self.sessions and self.ghost is not None:
            if self.machine.random.random() < 0.5:
                self._haunted()
                self.store.append(self.ghost)
                self.store.apply(self.ghost.writes)
            self.ghost = None
        self.sessions.append(session)

    def killed(self, loop: ProcessLoop) -> None:
        """The system closes what a dead process had open."""
        for session in [session for session in self.sessions if session.loop is loop]:
            session.vanish()

    def lose_power(self) -> None:
        """All who had it open are dead."""
        ghost, self.ghost = self.ghost, None
        if ghost is not None:
            self.store.append(ghost)
        self.store.crash(self.machine.random)
        if ghost is not None and self.store.log[-1:] == [ghost]:
            self._haunted()

    def _haunted(self) -> None:
        self.observer.hit("met", "sqlite: an unseen commit came back")
        self.observer.say(self.name, "finds a commit that nobody saw")
