"""SQLite by apsw. With ``apsw_cursor`` the only file that imports apsw.

A session is one connection that serves one branch, or recovery, and is closed after it: cursors, temporary tables, functions
and settings of a block end with it. Sessions are synchronous and may be used from any thread, one at a time; a connection
must not be used in a process that was forked from the one that opened it (SQLite's own rule: "How To Corrupt", 2.6).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import apsw

from nodoubt.errors import GuardError
from nodoubt.nodes.apsw_cursor import GuardedCursor
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.nodes.guard import BranchConnection
from nodoubt.nodes.sqlite_guard import BEHIND, LIMITS, OWN_TABLES, REFUSED, SQLiteGuard

Row = tuple[Any, ...]

VERSION = apsw.sqlite_lib_version()
#: A changeset is lost work where SQLite was built without these; the apsw of the package index has both.
HAS_SESSIONS = {"ENABLE_SESSION", "ENABLE_PREUPDATE_HOOK"} <= set(apsw.compile_options)
#: Whether apsw brings an SQLite of its own, instead of sharing the system's with Python's ``sqlite3``.
IS_OWN_COPY = apsw.using_amalgamation
#: The savepoint before all that a block does.
START = "nodoubt_start"
#: For rows that are done again.
UNCHECKED = "PRAGMA ignore_check_constraints = ON"


class GuardedConnection(apsw.Connection):
    """apsw's connection; a user sees it only through :class:`SQLiteConnection`."""

    session: Session

    def __enter__(self) -> Any:
        with self.session.call("SAVEPOINT"):
            super().__enter__()
        return self.session.connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        with self.session.call("RELEASE"):
            return super().__exit__(kind, error, trace)

    def blob_open(self, database: str, table: str, column: str, rowid: int, writeable: bool) -> Any:
        guard = self.session.guard
        if writeable:
            raise guard.refuse("blob_open(writeable=True)", BEHIND, "UPDATE the row instead")
        with self.session.call("blob_open"):
            return super().blob_open(database, table, column, rowid, writeable)

    blobopen = blob_open

    def backup(self, databasename: str, sourceconnection: Any, sourcedatabasename: str) -> Any:
        raise self.session.guard.refuse("backup()", BEHIND)


class SQLiteConnection(BranchConnection):
    """What the user holds: attributes that would blind or bypass the guard can be neither called nor set."""

    __slots__ = ()
    _limits = LIMITS

    def __setattr__(self, name: str, value: Any) -> None:
        if name in REFUSED:
            raise self._guard.refuse(f"{name} =", REFUSED[name])
        super().__setattr__(name, value)


class Session:
    """One connection. ``over`` is called once, when it is closed, from whichever thread closes it.

    Raises StatementFailed for what SQLite answers and ConnectionLost once it is closed.
    """

    def __init__(self, path: Path, *, create: bool = False, vfs: str | None = None) -> None:
        flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
        self.guard: SQLiteGuard
        self.connection: SQLiteConnection | None = None
        self.over: Callable[[], None] = lambda: None
        self.abandoned = False
        self.ended = False
        self._lock = threading.Lock()
        self._own = True
        self._changes: Any = None
        with _explained():
            self._raw = GuardedConnection(str(path), flags=flags, vfs=vfs)
        self._raw.session = self

    def wait_for_locks(self, seconds: float) -> None:
        """How long statements wait for other processes."""
        self._raw.set_busy_timeout(int(seconds * 1000))

    def command(self, sql: str, *values: Any) -> list[Row]:
        """Run one statement of ours and fetch its rows; no guard looks at it."""
        self._own = True
        try:
            with _explained():
                cursor = apsw.Cursor(self._raw)
                # The block, or a hook of the program, may have set a tracer that changes rows.
                cursor.set_row_trace(None)
                # Kept out of the cache of statements: a user's COMMIT must be compiled, and so be seen, by itself.
                return list(cursor.execute(sql, values, can_cache=False))
        finally:
            self._own = False

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open; after an error SQLite may have rolled it back by itself."""
        return not self.ended and self._raw.in_transaction

    def roll_back(self) -> None:
        """Undo whatever is open."""
        if self.in_transaction:
            self.command("ROLLBACK")

    def row_count(self) -> int:
        """How many rows the last statement changed."""
        return int(self._raw.changes())

    def frames(self) -> int:
        """How many frames of the WAL file there are for all to see. Not in a transaction."""
        # A connection that never looked knows of no WAL file.
        self.command("SELECT count(*) FROM main.sqlite_schema")
        with _explained():
            return self._raw.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)[0]

    def leave_files(self) -> None:
        """Let the close neither write into the database nor remove a WAL file: what is there now is not ours."""
        self._raw.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    # A user's work

    def bind(self, guard: SQLiteGuard, *, changes: bool) -> SQLiteConnection:
        """Open the connection to a user under a guard; ``changes`` collects what the block does."""
        self.guard = guard
        if changes:
            self.command(f"SAVEPOINT {START}")
            self._collect()
        self._raw.cursor_factory = GuardedCursor  # type: ignore[assignment]
        self._raw.set_exec_trace(self._trace)
        # Setting an authorizer also makes statements that were compiled before ask it.
        self._raw.set_authorizer(self._authorize)

        self.connection = SQLiteConnection(self._raw, guard)
        return self.connection

    def _collect(self) -> None:
        self._changes = apsw.Session(self._raw, "main")
        # sqlite_ tables have no keys, and ours are written anew when a changeset is applied.
        self._changes.table_filter(lambda table: not OWN_TABLES.match(table))
        self._changes.attach()

    @contextmanager
    def call(self, text: str) -> Iterator[None]:
        """One call of the user."""
        with self.guard.statement(text), self.hold():
            try:
                yield
            except BaseException:
                if not self.ended and not self._raw.in_transaction:
                    # SQLite rolled everything back (disk full, RAISE(ROLLBACK), …); the next statement would auto-commit.
                    self.guard.close(
                        GuardError(
                            f"a statement on node {self.guard.node!r} failed and rolled back the whole branch",
                            gid=self.guard.gid,
                        )
                    )
                raise

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the connection from being closed by :meth:`abandon` while it is used. Raises ConnectionLost."""
        try:
            with self._lock:
                if self.ended or self.abandoned:
                    raise ConnectionLost("the session was cut off")
                yield
        finally:
            # Whoever abandons sets the mark first and tries the lock then, so one of the two sees it.
            self._end_if_abandoned()

    def abandon(self) -> None:
        """Interrupt what runs, undo and close as soon as that is safe; from any thread, without waiting."""
        self.abandoned = True
        if not self.ended:
            try:
                self._raw.interrupt()
            except apsw.Error:
                # Closed meanwhile.
                return
            self._end_if_abandoned()

    def close(self) -> None:
        """Undo what is open and close; waits for a call that is running."""
        with self._lock:
            self._end()

    def left(self) -> str:
        """The beginning of a text whose statements were not all run, because its rows were not all fetched; or ""."""
        for cursor in self.guard.unfinished.values():
            if cursor.is_left():
                return str(cursor._text)
        return ""

    def changeset(self) -> bytes:
        """What the block did."""
        with _explained():
            return bytes(self._changes.changeset())

    def restart(self) -> None:
        """Undo all that the block did, and collect anew what is done from here on."""
        self.command(f"ROLLBACK TO {START}")
        self._changes.close()
        self._collect()

    def has_done(self, changeset: bytes) -> bool:
        """Whether what was done since :meth:`restart` is that, and nothing else."""
        with _explained():
            difference = apsw.ChangesetBuilder()  # type: ignore[no-untyped-call]
            difference.add(changeset)
            difference.add(apsw.Changeset.invert(self._changes.changeset()))
            return not difference.output()

    def deferred_violations(self) -> bool:
        """Whether a deferred foreign key is violated: COMMIT would fail."""
        return bool(self._raw.status(apsw.SQLITE_DBSTATUS_DEFERRED_FKS)[0])

    # Recovery

    def apply(self, changeset: bytes) -> None:
        """Do what another branch did, row by row, all or nothing.

        Its triggers and foreign key actions did their part when the changeset was collected: they must not do it again.
        Raises StatementFailed when the rows are not as the branch left them.
        """
        met: list[str] = []

        def conflict(reason: int, change: Any) -> int:
            met.append(f"{apsw.mapping_session_conflict[reason]} at a row of {change.name!r}")
            return apsw.SQLITE_CHANGESET_ABORT

        self._raw.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        # They were checked in the block. On the way to where rows swap unique values SQLite puts others in their place.
        self.command(UNCHECKED)
        try:
            with _explained():
                apsw.Changeset.apply(
                    changeset, self._raw, conflict=conflict, flags=apsw.SQLITE_CHANGESETAPPLY_FKNOACTION
                )
        except StatementFailed as failure:
            raise StatementFailed(failure.code, "; ".join(met) or str(failure)) from failure

    def _authorize(self, action: int, first: Any, second: Any, database: Any, trigger: Any) -> int:
        if self._own:
            return apsw.SQLITE_OK
        name = apsw.mapping_authorizer_function[action]
        error = self.guard.judge(str(name), first, second, database)
        if error is not None:
            raise error
        return apsw.SQLITE_OK

    def _trace(self, cursor: Any, sql: str, values: Any) -> bool:
        if not self._own:
            self.guard.running(sql)
        return True

    def _end_if_abandoned(self) -> None:
        if self.abandoned and self._lock.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._lock.release()

    def _end(self) -> None:
        """Closing rolls back. The lock is held."""
        if self.ended:
            return
        self.ended = True
        if self._changes is not None:
            self._changes.close()
        try:
            self._raw.close(True)
        finally:
            self.over()


def open_files() -> Iterator[str]:
    """The files that connections of this process hold open; "" where another thread is in the midst of a call."""
    for connection in apsw.connections():
        with suppress(apsw.ConnectionClosedError):
            try:
                yield connection.filename
            except apsw.ThreadingViolationError:
                yield ""


def changed_tables(changeset: bytes) -> dict[str, frozenset[int]]:
    """The tables of a changeset, each with the numbers of its key's columns."""
    with _explained():
        return {change.name: frozenset(change.pk_columns) for change in apsw.Changeset.iter(changeset)}


@contextmanager
def _explained() -> Iterator[None]:
    """The one place where apsw's errors are understood."""
    try:
        yield
    except (apsw.ConnectionClosedError, apsw.CursorClosedError) as error:
        raise ConnectionLost(str(error)) from error
    except apsw.Error as error:
        code = getattr(error, "result", 0)
        name = str(apsw.mapping_result_codes.get(code & 0xFF, type(error).__name__))
        raise StatementFailed(name, f"{type(error).__name__}: {error}") from error
