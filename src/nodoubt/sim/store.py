"""What every database here has: tables, rows that are locked by whoever writes them, a log, and what a crash leaves of it.

Nothing here knows SQL, XA or nodoubt. Transactions read what is committed and what they wrote themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from nodoubt.sim.locks import EXCLUSIVE, Locks, Place, Txn

Tables = dict[str, dict[Any, Any]]


class SqlError(Exception):
    """A server's answer with an error; ``code`` is its SQLSTATE or number, ``constraint`` the key that was violated."""

    def __init__(self, code: str, message: str, constraint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.constraint = constraint


@dataclass(slots=True)
class Prepared:
    """A branch that promised. ``owner`` is the session that it is attached to, where branches are.

    Of a session that ends its name is free at once, and its transaction from ``free_at_s`` on. ``hidden``: its name is forgotten.
    """

    txn: Txn
    at_s: float
    owner: Any = None
    busy: bool = False
    free_at_s: float = 0.0
    hidden: bool = False


@dataclass(slots=True, frozen=True)
class Record:
    """A line of the log: ``commit`` with writes, ``prepare`` of a name with writes, ``finish`` of a name.

    ``locks`` are those that a prepared branch keeps through a crash, with their modes, beside those of what it wrote.
    """

    kind: str
    name: str = ""
    writes: dict[Place, Any] = field(default_factory=dict)
    locks: Mapping[Place, str] = field(default_factory=dict)
    commit: bool = True
    at_s: float = 0.0


class Store(Locks):
    """Tables with locks, prepared branches and a log."""

    def __init__(self, initial: Tables) -> None:
        super().__init__()
        self._initial = initial
        self.tables: Tables = {name: dict(rows) for name, rows in initial.items()}
        self.prepared: dict[str, Prepared] = {}
        self.log: list[Record] = []
        #: ``log[:forced]`` is on the disk.
        self.forced = 0
        #: Rows that somebody saw before they were forced, and whether some of them were lost since.
        self.shown: set[Place] = set()
        self.forgot = False
        #: Those with a snapshot.
        self._viewers: set[Txn] = set()

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

    def seen(self, txn: Txn, table: str, key: Any) -> Any:
        """A row of a transaction's snapshot, if it has one, or its own."""
        if txn.view and (table, key) in txn.view and (table, key) not in txn.writes:
            return txn.view[table, key]
        return self.read(txn, table, key)

    def all_seen(self, txn: Txn, table: str) -> dict[Any, Any]:
        """A table as it is in a transaction's snapshot."""
        before = {key: row for (name, key), row in (txn.view or {}).items() if name == table}
        return {key: row for key, row in {**self.tables[table], **before}.items() if row is not None}

    # Snapshots and ends

    def look(self, txn: Txn) -> None:
        """From now on a transaction sees the rows of this moment."""
        if txn.view is None:
            txn.view = {}
            self._viewers.add(txn)

    def close(self, txn: Txn) -> None:
        """A transaction looks at nothing any more."""
        self._viewers.discard(txn)

    def end(self, txn: Txn, *, apply: bool) -> None:
        """End a transaction: its writes become visible or vanish, its locks are handed on."""
        txn.over = True
        if txn.view is not None:
            self._viewers.discard(txn)
        if apply:
            self.apply(txn.writes)
        self.release(txn)

    def apply(self, writes: dict[Place, Any]) -> None:
        """Let writes be seen, but not by those who look at what there was before."""
        for txn in self._viewers:
            assert txn.view is not None
            for table, key in writes:
                txn.view.setdefault((table, key), self.tables[table].get(key))
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

    def is_unforced(self, place: Place) -> bool:
        """Whether somebody committed a row there, or prepared to, that is not on the disk yet."""
        return any(place in record.writes for record in self.log[self.forced :])

    def is_durable(self, place: Place) -> bool:
        """Whether a commit of a row there is on the disk."""
        return any(place in record.writes and record.kind != "prepare" for record in self.log[: self.forced])

    def force(self, length: int) -> None:
        """The log is on the disk up to there."""
        self.forced = max(self.forced, length)

    def lose(self, length: int) -> None:
        """Nothing of the log is left behind that length."""
        self.forgot = self.forgot or any(place in record.writes for record in self.log[length:] for place in self.shown)
        del self.log[length:]

    def crash(self, random: Random) -> None:
        """Everything is gone but what was forced, and perhaps some of what was written after it, in order."""
        length = random.randint(self.forced, len(self.log))
        self.lose(length)
        self.forced = length
        self.tables = {name: dict(rows) for name, rows in self._initial.items()}
        self.prepared.clear()
        self._holders.clear()
        self._queues.clear()
        self._viewers.clear()
        kept: dict[Txn, dict[Place, str]] = {}
        for record in self.log:
            match record.kind:
                case "commit":
                    self.apply(record.writes)
                case "prepare":
                    txn = Txn()
                    txn.writes = record.writes
                    self.prepared[record.name] = Prepared(txn, record.at_s)
                    kept[txn] = {**dict.fromkeys(txn.writes, EXCLUSIVE), **record.locks}
                case "finish":
                    txn = self.prepared.pop(record.name).txn
                    if record.commit:
                        self.apply(txn.writes)
        for branch in self.prepared.values():
            for place, mode in kept[branch.txn].items():
                self._fits(branch.txn, place, mode)
                branch.txn.locks.append(place)
