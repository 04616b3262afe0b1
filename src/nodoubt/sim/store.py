"""What every database here has: tables, rows that are locked by whoever writes them, a log, and what a crash leaves of it.

Nothing here knows SQL, XA or nodoubt. Transactions read what is committed and what they wrote themselves.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from random import Random
from typing import Any

#: (table, key)
Place = tuple[str, Any]
Tables = dict[str, dict[Any, Any]]


class SqlError(Exception):
    """A server's answer with an error; ``code`` is its SQLSTATE or number, ``constraint`` the key that was violated."""

    def __init__(self, code: str, message: str, constraint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.constraint = constraint


class Deadlock(Exception):
    """Waiting would never end."""


class Txn:
    """An open transaction."""

    __slots__ = ("locks", "over", "read_only", "view", "waits_for", "writes")

    def __init__(self, *, read_only: bool = False) -> None:
        self.writes: dict[Place, Any] = {}
        self.locks: list[Place] = []
        self.waits_for: Place | None = None
        self.read_only = read_only
        self.over = False
        #: What a REPEATABLE READ transaction sees: the rows of its first look.
        self.view: Tables | None = None


@dataclass(slots=True, eq=False)
class LockWait:
    """Somebody waits for a row; ``wake`` is called with whether it got it."""

    txn: Txn
    place: Place
    timeout_s: float | None
    wake: Any = None


@dataclass(slots=True)
class Prepared:
    """A branch that promised. ``owner`` is the session that it is attached to, where branches are."""

    txn: Txn
    at_s: float
    owner: Any = None
    busy: bool = False


@dataclass(slots=True, frozen=True)
class Record:
    """A line of the log: ``commit`` with writes, ``prepare`` of a name with writes, ``finish`` of a name."""

    kind: str
    name: str = ""
    writes: dict[Place, Any] = field(default_factory=dict)
    commit: bool = True
    at_s: float = 0.0


class Store:
    """Tables with locks, prepared branches and a log."""

    def __init__(self, initial: Tables) -> None:
        self._initial = initial
        self.tables: Tables = {name: dict(rows) for name, rows in initial.items()}
        self.prepared: dict[str, Prepared] = {}
        self.log: list[Record] = []
        #: ``log[:forced]`` is on the disk.
        self.forced = 0
        self._holders: dict[Place, Txn] = {}
        self._queues: dict[Place, list[LockWait]] = {}

    # Rows

    def read(self, txn: Txn | None, table: str, key: Any) -> Any:
        """A row, or None."""
        if txn is not None and (table, key) in txn.writes:
            return txn.writes[table, key]
        return self.tables[table].get(key)

    def rows(self, txn: Txn | None, table: str) -> dict[Any, Any]:
        """A table as a transaction sees it."""
        rows = self.tables[table]
        own = {key: row for (name, key), row in txn.writes.items() if name == table} if txn is not None else None
        if not own:
            return rows
        return {key: row for key, row in {**rows, **own}.items() if row is not None}

    def keys(self, table: str) -> list[Any]:
        """In order, the keys of all rows that there are, and of those that somebody holds and that may come to be."""
        return sorted({*self.tables[table], *(key for name, key in self._holders if name == table)})

    def is_locked(self, txn: Txn | None, table: str, key: Any) -> bool:
        """Whether somebody else holds a row."""
        return self._holders.get((table, key), txn) is not txn

    def snapshot(self) -> Tables:
        """All rows now."""
        return {name: dict(rows) for name, rows in self.tables.items()}

    # Locks

    def lock(self, txn: Txn, place: Place, timeout_s: float | None) -> Generator[LockWait, bool, bool]:
        """Take a row, waiting for whoever holds it; False after ``timeout_s``. Raises Deadlock."""
        holder: Txn | None = self._holders.setdefault(place, txn)
        if holder is txn:
            txn.locks.append(place)
            return True
        while holder is not None:
            holder = self._holders.get(holder.waits_for) if holder.waits_for is not None else None
            if holder is txn:
                raise Deadlock
        wait = LockWait(txn, place, timeout_s)
        self._queues.setdefault(place, []).append(wait)
        txn.waits_for = place
        try:
            got = yield wait
        finally:
            txn.waits_for = None
            queue = self._queues.get(place, [])
            if wait in queue:
                queue.remove(wait)
        return got

    def end(self, txn: Txn, *, apply: bool) -> None:
        """End a transaction: its writes become visible or vanish, its locks are handed on."""
        txn.over = True
        if apply:
            self.apply(txn.writes)
        locks, txn.locks = txn.locks, []
        for place in locks:
            if self._holders.get(place) is not txn:
                continue
            del self._holders[place]
            queue = self._queues.get(place)
            if queue:
                wait = queue.pop(0)
                self._holders[place] = wait.txn
                wait.txn.locks.append(place)
                # Not when it wakes: until then it would seem to wait for itself.
                wait.txn.waits_for = None
                wait.wake(True)

    def apply(self, writes: dict[Place, Any]) -> None:
        """Let writes be seen."""
        for (table, key), row in writes.items():
            if row is None:
                self.tables[table].pop(key, None)
            else:
                self.tables[table][key] = row

    # Log

    def append(self, record: Record) -> int:
        """Write a line, which only :meth:`force` makes durable; returns how long the log must be then."""
        self.log.append(record)
        return len(self.log)

    def force(self, length: int) -> None:
        """The log is on the disk up to there."""
        self.forced = max(self.forced, length)

    def crash(self, random: Random) -> None:
        """Everything is gone but what was forced, and perhaps some of what was written after it, in order."""
        kept = random.randint(self.forced, len(self.log))
        del self.log[kept:]
        self.forced = kept
        self.tables = {name: dict(rows) for name, rows in self._initial.items()}
        self.prepared.clear()
        self._holders.clear()
        self._queues.clear()
        for record in self.log:
            match record.kind:
                case "commit":
                    self.apply(record.writes)
                case "prepare":
                    txn = Txn()
                    txn.writes = record.writes
                    self.prepared[record.name] = Prepared(txn, record.at_s)
                case "finish":
                    txn = self.prepared.pop(record.name).txn
                    if record.commit:
                        self.apply(txn.writes)
        for branch in self.prepared.values():
            branch.txn.locks = list(branch.txn.writes)
            self._holders.update(dict.fromkeys(branch.txn.locks, branch.txn))
