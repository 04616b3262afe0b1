"""Connections to a SQLite-like database, under the real node, branch and journal.

What is played is what ``apsw_driver.Session`` is: one writer at a time, texts of ours, changesets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from nodoubt.nodes.apsw_driver import START
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.nodes.guard import BranchConnection
from nodoubt.nodes.sqlite_guard import SQLiteGuard
from nodoubt.nodes.sqlite_sessions import LOCK_LOOK_S
from nodoubt.sim.driver import SimulatedError
from nodoubt.sim.locks import Txn
from nodoubt.sim.loop import Died, ProcessLoop
from nodoubt.sim.machine import UNSEEN_COMMIT, UNSEEN_WORK
from nodoubt.sim.sqlite_file import SQLiteDatabase
from nodoubt.sim.store import Record

Rows = list[tuple[Any, ...]]
#: Tables that a changeset carries.
CARRIED = ("list", "account")


class WouldWait(BaseException):
    """A call aside waits for the write lock: it is made again a little later."""


class SimulatedSQLite:
    """See :class:`nodoubt.nodes.apsw_driver.Session`."""

    def __init__(self, database: SQLiteDatabase, loop: ProcessLoop) -> None:
        if loop.dead:
            raise Died
        self.guard: SQLiteGuard
        self.connection: BranchConnection | None = None
        self.over: Callable[[], None] = lambda: None
        self.abandoned = False
        self.ended = False
        self.loop = loop
        self._database = database
        self._txn: Txn | None = None
        self._patience_s = 0.0
        self._is_query_only = False
        database.opened(self)

    def wait_for_locks(self, seconds: float) -> None:
        self._patience_s = seconds

    def command(self, sql: str, *values: Any) -> Rows:
        """Run one statement of ours."""
        if self.loop.dead:
            raise Died
        if self.ended:
            raise ConnectionLost("the connection is closed")
        observer, name = self._database.observer, self._database.name
        if observer.lines is not None:
            observer.say(self.loop.name, f"> {name} {sql} {values or ''}")
        rows = _understand(sql)(self, *values)
        if observer.lines is not None and rows:
            observer.say(self.loop.name, f"< {name} {rows}")
        return [] if rows is None else rows

    @property
    def in_transaction(self) -> bool:
        return self._txn is not None

    def roll_back(self) -> None:
        if self._txn is not None:
            self.command("ROLLBACK")

    # A user's work

    def bind(self, guard: SQLiteGuard, *, changes: bool) -> BranchConnection:
        self.guard = guard
        if changes:
            self.command(f"SAVEPOINT {START}")
        self.connection = BranchConnection(_UserConnection(self), guard)
        return self.connection

    @contextmanager
    def hold(self) -> Iterator[None]:
        if self.loop.dead:
            raise Died
        if self.ended or self.abandoned:
            raise ConnectionLost("the session was cut off")
        yield

    def abandon(self) -> None:
        self.abandoned = True
        self.close()

    def close(self) -> None:
        if not self.ended and not self.loop.dead:
            self.vanish()
            self.over()

    def vanish(self) -> None:
        """Closed; what was open is undone, and the write lock is free."""
        self.ended = True
        self._release()
        self._database.sessions.remove(self)

    def left(self) -> str:
        return ""

    def deferred_violations(self) -> bool:
        return False

    def changeset(self) -> bytes:
        """What the block did: place, row before and after."""
        assert self._txn is not None
        store = self._database.store
        changes = [
            (table, key, store.tables[table].get(key), row)
            for (table, key), row in self._txn.writes.items()
            if table in CARRIED
        ]
        return json.dumps(changes).encode()

    def restart(self) -> None:
        self.command(f"ROLLBACK TO {START}")

    def _undo(self) -> None:
        assert self._txn is not None
        self._txn.writes.clear()

    def has_done(self, changeset: bytes) -> bool:
        return self.changeset() == changeset

    def apply(self, changeset: bytes) -> None:
        for table, key, before, after in json.loads(changeset):
            if _row(self._read(table, key)) != _row(before):
                raise StatementFailed("SQLITE_ABORT", f"a row of {table!r} is not as the branch found it")
            self._write(table, key, _row(after))

    # Rows

    def _read(self, table: str, key: Any) -> Any:
        reader = self._reader()
        store = self._database.store
        return store.read(self._txn, table, key) if reader is None else store.seen(reader, table, key)

    def _reader(self) -> Txn | None:
        """One that goes on to see the rows of its first look. A writer sees what there is, as nobody else writes."""
        if self._txn is None or not self._txn.read_only:
            return None
        self._database.store.look(self._txn)
        return self._txn

    def _write(self, table: str, key: Any, row: Any) -> None:
        if self._is_query_only:
            raise StatementFailed("SQLITE_READONLY", "attempt to write a readonly database")
        if self._database.writer is not self or self._txn is None:
            self._database.observer.violation(f"{self._database.name}: a write outside of any branch")
            return
        self._txn.writes[table, key] = row

    def rows(self, table: str) -> dict[Any, Any]:
        """A table as this session sees it."""
        reader = self._reader()
        store = self._database.store
        return store.rows(self._txn, table) if reader is None else store.all_seen(reader, table)

    def _release(self) -> None:
        if self._txn is not None:
            self._database.store.close(self._txn)
        self._txn = None
        if self._database.writer is self:
            self._database.writer = None

    # Transactions

    def _begin(self) -> None:
        self._txn = Txn(read_only=True)

    def _begin_immediate(self) -> None:
        database = self._database
        if self._txn is not None:
            database.observer.violation(f"{database.name}: BEGIN on a session that is in a transaction")
        if database.writer is not None:
            # Whoever waits lets time pass once, and is refused then, so that he can look at his own clock.
            if self._patience_s == LOCK_LOOK_S and self.loop.owner.world.may_wait():
                raise WouldWait
            raise StatementFailed("SQLITE_BUSY", "database is locked")
        database.writer = self
        self._txn = Txn()

    def _rollback(self) -> None:
        self._release()

    def _commit(self) -> None:
        """Like SQLite, whatever goes wrong here rolls everything back, and the lock is free."""
        txn = self._txn
        try:
            if txn is not None and txn.writes:
                self._force(txn)
        except StatementFailed:
            self._release()
            raise
        self._release()

    def _force(self, txn: Txn) -> None:
        database = self._database
        machine, store = database.machine, database.store
        machine.step(self.loop)
        if machine.disk.full:
            database.observer.hit("met", "sqlite: disk full")
            raise StatementFailed("SQLITE_FULL", "database or disk is full")
        # Written: from now on it may be found, though nobody has seen it.
        database.ghost = Record("commit", writes=txn.writes)
        is_work = any(table in CARRIED for table, _ in txn.writes)
        machine.step(self.loop, UNSEEN_WORK if is_work and not database.in_doubt() else UNSEEN_COMMIT)
        if machine.disk.fails:
            machine.disk.fails = False
            database.observer.hit("met", "sqlite: forced write failed")
            raise StatementFailed("SQLITE_IOERR", "disk I/O error")
        store.force(store.append(database.ghost))
        database.ghost = None
        store.apply(txn.writes)
        machine.step(self.loop)

    # Our tables

    def _has_evidence(self, gid: str, branch: int) -> Rows:
        return [(1,)] if self._read("branch", (gid, branch)) else []

    def _leave_evidence(self, gid: str, branch: int) -> None:
        if self._read("branch", (gid, branch)):
            raise StatementFailed("SQLITE_CONSTRAINT", "UNIQUE constraint failed")
        self._write("branch", (gid, branch), True)

    def _applied(self, gids: str) -> Rows:
        wanted = set(json.loads(gids))
        return [key for key in self.rows("branch") if key[0] in wanted]

    def _delete_evidence(self, gids: str) -> None:
        for key in self._applied(gids):
            self._write("branch", key, None)

    def _decide(self, gid: str, participants: str, complete: int) -> None:
        if self._read("decision", gid) is not None:
            raise StatementFailed("SQLITE_CONSTRAINT", "UNIQUE constraint failed: nodoubt_decision.gid")
        self._write("decision", gid, ("committed", participants, bool(complete), self._database.clock_s(), ""))

    def _is_decided(self, gid: str) -> Rows:
        row = self._read("decision", gid)
        return [(1,)] if row is not None and row[0] == "committed" else []

    def _decisions(self, gids: str) -> Rows:
        rows = self.rows("decision")
        return [self._spelt(gid, rows[gid]) for gid in json.loads(gids) if gid in rows]

    def _spelt(self, gid: str, row: Any) -> tuple[Any, ...]:
        return gid, row[0], row[1], int(row[2]), max(0.0, self._database.clock_s() - row[3]), row[4]

    def _insert_tombstones(self, gids: str) -> Rows:
        fresh = [gid for gid in json.loads(gids) if self._read("decision", gid) is None]
        for gid in fresh:
            self._write("decision", gid, ("aborted", "{}", False, self._database.clock_s(), ""))
        return [(gid,) for gid in fresh]

    def _unfinished(self, limit: int) -> Rows:
        found = [(gid, row) for gid, row in self.rows("decision").items() if not row[2] and row[0] != "aborted"]
        return [self._spelt(gid, row) for gid, row in sorted(found)[:limit]]

    def _complete(self, gids: str) -> None:
        for gid in json.loads(gids):
            row = self._read("decision", gid)
            if row is not None and not row[2]:
                self._database.completing(gid)
                self._write("decision", gid, (*row[:2], True, self._database.clock_s(), row[4]))

    def _old_evidence(self, before: str, limit: int) -> Rows:
        return [(gid,) for gid in sorted((gid for gid, _ in self.rows("branch") if gid < before), reverse=True)[:limit]]

    def _purge(self, before: str, retention_s: float, limit: int) -> Rows:
        oldest = self._database.clock_s() - retention_s
        rows = sorted(self.rows("decision").items())
        gids = [gid for gid, row in rows if gid < before and (row[2] or row[0] == "aborted") and row[3] < oldest][
            :limit
        ]
        for gid in gids:
            self._write("decision", gid, None)
        return [(1,) for _ in gids]

    def _identity(self) -> Rows:
        return list(self._database.store.tables["node"].values())

    def _keys(self) -> Rows:
        return [(table, "table", "id", 1, "text") for table in CARRIED]

    # The workload

    def _look(self, key: str) -> Rows:
        return [(self._read("list", key),)]

    def _append(self, tag: str, key: str) -> None:
        self._write("list", key, (*self._read("list", key), tag))

    def _move(self, amount: int, key: str) -> None:
        balance = self._read("account", key) + amount
        if balance < 0:
            raise StatementFailed("SQLITE_CONSTRAINT", "CHECK constraint failed: balance")
        self._write("account", key, balance)

    def _query_only(self) -> None:
        self._is_query_only = True

    def _nothing(self) -> None:
        return None


class _UserConnection:
    """What a block works on; asynchronous here, so that one workload serves all kinds of nodes."""

    def __init__(self, session: SimulatedSQLite) -> None:
        self._session = session

    async def execute(self, sql: str, *values: Any) -> Rows:
        session = self._session
        with session.guard.statement(sql), session.hold():
            table = _WRITTEN.get(sql)
            if table is not None and (error := session.guard.judge("SQLITE_UPDATE", table, None, "main")) is not None:
                raise error
            try:
                return session.command(sql, *values)
            except StatementFailed as failure:
                raise SimulatedError(failure.code, str(failure)) from failure


def _row(value: Any) -> Any:
    """A row as it was before JSON."""
    return tuple(value) if isinstance(value, list) else value


LOOK = "SELECT items FROM list WHERE id = ?"
APPEND = "UPDATE list SET items = items || ? WHERE id = ?"
MOVE = "UPDATE account SET balance = balance + ? WHERE id = ?"
_WRITTEN: Mapping[str, str] = {APPEND: "list", MOVE: "account"}

_TEXTS: tuple[tuple[re.Pattern[str], Callable[..., Rows | None]], ...] = tuple(
    (re.compile(pattern, re.DOTALL), step)
    for pattern, step in (
        (rf"SAVEPOINT {START}", SimulatedSQLite._nothing),
        (rf"ROLLBACK TO {START}", SimulatedSQLite._undo),
        (r"BEGIN", SimulatedSQLite._begin),
        (r"BEGIN IMMEDIATE", SimulatedSQLite._begin_immediate),
        (r"COMMIT", SimulatedSQLite._commit),
        (r"ROLLBACK", SimulatedSQLite._rollback),
        (re.escape(LOOK), SimulatedSQLite._look),
        (re.escape(APPEND), SimulatedSQLite._append),
        (re.escape(MOVE), SimulatedSQLite._move),
        (r"SELECT 1 FROM main.nodoubt_branch WHERE gid = \? AND branch = \?", SimulatedSQLite._has_evidence),
        (r"INSERT INTO main.nodoubt_branch .*", SimulatedSQLite._leave_evidence),
        (r"SELECT gid, branch FROM main.nodoubt_branch WHERE .*", SimulatedSQLite._applied),
        (r"DELETE FROM main.nodoubt_branch WHERE .*", SimulatedSQLite._delete_evidence),
        (r"SELECT gid FROM main.nodoubt_branch WHERE gid < .*", SimulatedSQLite._old_evidence),
        (r"INSERT INTO main.nodoubt_decision .* VALUES \(\?, 'committed', \?, \?\)", SimulatedSQLite._decide),
        (r"INSERT INTO main.nodoubt_decision .* RETURNING gid", SimulatedSQLite._insert_tombstones),
        (r"SELECT 1 FROM main.nodoubt_decision WHERE gid = \? AND .*", SimulatedSQLite._is_decided),
        (r"SELECT gid, decision, .* WHERE gid IN .*", SimulatedSQLite._decisions),
        (r"SELECT gid, decision, .* WHERE complete = 0 .*", SimulatedSQLite._unfinished),
        (r"UPDATE main.nodoubt_decision SET complete = 1, .*", SimulatedSQLite._complete),
        (r"DELETE FROM main.nodoubt_decision WHERE gid IN .*", SimulatedSQLite._purge),
        (r"SELECT name, domain, id, schema_version FROM main.nodoubt_node", SimulatedSQLite._identity),
        (r"SELECT 1 FROM main.sqlite_schema WHERE .* name = 'nodoubt_node'", lambda session: [(1,)]),
        (r"PRAGMA main.journal_mode", lambda session: [("wal",)]),
        (r"PRAGMA main.schema_version", lambda session: [(1,)]),
        (r"SELECT l.name, .* FROM pragma_table_list .*", SimulatedSQLite._keys),
        (r"SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_sequence'", SimulatedSQLite._nothing),
        (r"SELECT count\(\*\) FROM sqlite_schema", SimulatedSQLite._nothing),
        (r"PRAGMA query_only = ON", SimulatedSQLite._query_only),
    )
)


@lru_cache(maxsize=256)
def _understand(sql: str) -> Callable[..., Rows | None]:
    for pattern, step in _TEXTS:
        if pattern.fullmatch(sql):
            return step
    raise NotImplementedError(f"the simulated SQLite does not understand: {sql}")
