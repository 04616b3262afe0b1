"""Connections to one database file, and the two things that a writer needs: this process's turn and the file's write lock.

The turn keeps transactions of one process from polling the lock against each other, and is handed out in order of asking. It
is given back when the session that was opened for it is closed, from whichever thread. Branches of several processes stand in
line for the lock (``sqlite_line``); recovery, which they wait for, goes past it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from nodoubt.errors import NodeUnavailable
from nodoubt.journal.record import JournalDamaged
from nodoubt.nodes import sqlite_tables as tables
from nodoubt.nodes.apsw_driver import Session
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.nodes.sqlite_alone import Alone, require_alone
from nodoubt.nodes.sqlite_line import Line
from nodoubt.nodes.sqlite_wal import has_unseen
from nodoubt.nodes.world import World

T = TypeVar("T")

#: How long a statement that is no BEGIN IMMEDIATE waits, as readers do while the WAL file is recovered after a crash.
LOCK_SLICE_S = 0.1
#: How often the write lock is looked at. SQLite's own waiting slows down to 0.1 s, many times as long as it is mostly held.
LOCK_LOOK_S = 0.001
#: Idle recovery connections that are kept.
IDLE_MAX = 2

MOVED = "the database file or its WAL file was replaced or removed while it was in use"


class Locked(NodeUnavailable):
    """The write lock, or the turn, was not to be had in time."""


class Sessions:
    """Opens sessions that commit durably.

    ``options``: ``vfs``, the name of a registered VFS of SQLite; ``foreign_keys``, true to have them checked in branches.
    """

    def __init__(self, name: str, path: Path, world: World, options: Mapping[str, Any]) -> None:
        self._name = name
        self._path = path
        self._world = world
        self._vfs = options.get("vfs")
        self._foreign_keys = bool(options.get("foreign_keys", False))
        self.turns = world.turns(1)
        self._idle: list[Session] = []
        self._idle_lock = threading.Lock()
        self._keeper: Session | None = None
        self._alone: Alone | None = None
        self.closed = False

    def keep(self) -> None:
        """Keep one connection open: without any, SQLite empties and removes the WAL file, and rebuilds its index later.

        Raises ConfigError where this process has the file open otherwise.
        """
        require_alone(self._name, self._path)
        self._keeper = self.new()
        self._keeper.command("SELECT count(*) FROM sqlite_schema")
        self._alone = Alone(self._name, self._path)
        self.closed = False

    def close(self) -> None:
        """Close what is idle now, and the rest when it comes back."""
        with self._idle_lock:
            self.closed = True
            idle, self._idle = self._idle, []
        if self._keeper is not None:
            idle.append(self._keeper)
            self._keeper = None
        is_moved = self.is_moved()
        for session in idle:
            if is_moved:
                session.leave_files()
            session.close()
        if self._alone is not None:
            self._alone.leave()
            self._alone = None

    def is_moved(self) -> bool:
        """Whether the files that are open here are no longer those on the path."""
        return self._alone is not None and self._alone.is_moved()

    def require_unmoved(self) -> None:
        """Raise NodeUnavailable if what is written now would be lost."""
        if self.is_moved():
            raise NodeUnavailable(
                f"node {self._name!r}: {MOVED}",
                retryable=False,
                hint="another SQLite library in this process does so when it closes the file, and so does who moves files."
                " End this process, see that the right files are there, and start it again",
            )

    def new(self, *, for_branch: bool = False) -> Session:
        """A new connection, for recovery or for a branch. Raises StatementFailed and NodeUnavailable."""
        self.require_unmoved()
        session = Session(self._path, vfs=self._vfs)
        try:
            session.wait_for_locks(LOCK_SLICE_S)
            session.command("PRAGMA main.synchronous = FULL")
            ((synchronous,),) = session.command("PRAGMA main.synchronous")
            if synchronous != 2:
                raise StatementFailed("", f"PRAGMA synchronous is {synchronous} although it was set to FULL")
            if not for_branch or self._foreign_keys:
                # Recovery does rows again that were checked already, and must not do their actions again.
                session.command(f"PRAGMA foreign_keys = {'ON' if for_branch else 'OFF'}")
        except BaseException:
            session.close()
            raise
        return session

    async def locked(self, timeout_s: float) -> Session:
        """A new session that holds the turn and the write lock; closing it gives both back. Raises NodeUnavailable."""
        until = self._world.now() + timeout_s
        if not await self.turns.take(timeout_s):
            raise self._busy("another transaction of this process", timeout_s)
        try:
            with self.explained("begin"):
                session = self.new(for_branch=True)
        except BaseException:
            self.turns.give_back()
            raise
        session.over = self.turns.give_back
        try:
            with self.explained("begin"):
                if await self._stand_in_line(session, until):
                    return session
        except BaseException:
            session.close()
            raise
        session.close()
        raise self._busy("another process", timeout_s)

    async def read(self, what: str, step: Callable[[Session], T]) -> T:
        """Run a step on a session of recovery's. Raises NodeUnavailable."""

        def run() -> T:
            with self.explained(what):
                return self.use(step)

        return await self._world.aside(run)

    async def write(self, what: str, step: Callable[[Session], T], timeout_s: float) -> T:
        """Run a step under the write lock, and commit. Raises NodeUnavailable; Locked is one."""
        until = self._world.now() + timeout_s
        if not await self.turns.take(timeout_s):
            raise self._busy("a transaction of this process", timeout_s)

        def transact(session: Session) -> T:
            while not try_lock(session, LOCK_LOOK_S):
                if self._world.now() >= until:
                    raise self._busy("another process", timeout_s)
            try:
                result = step(session)
                session.command("COMMIT")
                self.require_unmoved()
                return result
            finally:
                session.roll_back()

        try:
            return await self.read(what, transact)
        finally:
            self.turns.give_back()

    def use(self, step: Callable[[Session], T]) -> T:
        """Run a step on an idle session, or a new one; anything but success closes it."""
        self.require_unmoved()
        with self._idle_lock:
            idle = self._idle.pop() if self._idle else None
        session = idle or self.new()
        try:
            result = step(session)
        except BaseException:
            session.close()
            raise
        with self._idle_lock:
            kept = not self.closed and len(self._idle) < IDLE_MAX
            if kept:
                self._idle.append(session)
        if not kept:
            session.close()
        return result

    @contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Turn what the driver and the journal raise into NodeUnavailable."""
        try:
            yield
        except JournalDamaged as damage:
            raise damaged(self._name, damage) from damage
        except (ConnectionLost, StatementFailed, OSError) as error:
            retryable = not isinstance(error, StatementFailed) or error.code not in ("SQLITE_CANTOPEN", "SQLITE_NOTADB")
            raise NodeUnavailable(f"node {self._name!r} could not {what}: {error}", retryable=retryable) from error

    async def _stand_in_line(self, session: Session, until: float) -> bool:
        """Wait for the write lock behind the branches of other processes; whether it was to be had in time."""
        with self.line() as line:
            while not (line.may_try() and try_lock(session) and not self._overwrites_unseen(session)):
                if self._world.now() >= until:
                    return False
                await self._world.sleep(LOCK_LOOK_S)
        return True

    def _overwrites_unseen(self, session: Session) -> bool:
        """Overwrite a commit that nobody sees, which takes a commit, and so the lock; whether there was one.

        Whoever works on the state without it must not find it there when his work is done again from the journal.
        """
        if not self.has_unseen():
            return False
        # A row that is changed to what it was would not be written.
        tables.leave_evidence(session, "", 0)
        tables.delete_evidence(session, [""])
        session.command("COMMIT")
        return True

    def has_unseen(self) -> bool:
        """Whether a commit that nobody sees may come back. To be asked under the write lock."""
        return has_unseen(self._path.with_name(f"{self._path.name}-wal"), self.use(lambda session: session.frames()))

    def line(self) -> Line:
        """A place in the line of the branches that wait."""
        return Line(self._path)

    def _busy(self, who: str, timeout_s: float) -> Locked:
        return Locked(
            f"node {self._name!r}: the database is locked by {who} for longer than {timeout_s:g} s",
            hint="SQLite has one writer at a time: keep blocks short, or raise the node's acquire_timeout_s",
        )


def try_lock(session: Session, wait_s: float = 0.0) -> bool:
    """Take the write lock if it is free within ``wait_s``."""
    session.wait_for_locks(wait_s)
    try:
        session.command("BEGIN IMMEDIATE")
    except StatementFailed as failure:
        if failure.code == "SQLITE_BUSY":
            return False
        raise
    finally:
        session.wait_for_locks(LOCK_SLICE_S)
    return True


def damaged(node: str, damage: JournalDamaged) -> NodeUnavailable:
    """The error of a node whose journal cannot be read: it takes no branch until a person looked."""
    return NodeUnavailable(
        f"node {node!r}: {damage}",
        retryable=False,
        hint="a prepared branch was in it. Find its transaction on the other nodes (`nodoubt tx list`), repeat its work"
        " here by hand if it was committed, then move the file away; nothing else removes it",
    )
