"""The transactions of a PostgreSQL-like server, its snapshots, and the locks that outlive a statement.

A failed transaction answers COMMIT and PREPARE TRANSACTION with the tag ROLLBACK; a prepared branch is free of its session,
holds its locks and survives restarts; a commit is forced before it is seen; 42704 while a PREPARE is still running; a forced
write that fails takes the whole server down.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from nodoubt.protocol.ids import BranchId
from nodoubt.sim.locks import EXCLUSIVE, Deadlock, Place, Txn
from nodoubt.sim.server import Answer, Backend, Server, Steps
from nodoubt.sim.store import Prepared, Record, SqlError

KEY = "key"
#: The lock of the table of one row, which every decision passes.
GATE: Place = ("node", "")


class PostgreSQLTransactions(Server):
    """See the module."""

    kind = "postgresql"

    def spell(self, branch: BranchId) -> str:
        return branch.text()

    def refuse(self, call: Callable[..., Any]) -> None:
        if call not in _ENDERS:
            raise SqlError("25P02", "current transaction is aborted")

    def write(self, b: Backend, table: str, key: Any) -> Generator[Any, Any, Txn]:
        """Lock a row for writing. Any error aborts the transaction, and its locks are gone at once."""
        txn = b.txn
        if txn is None:
            b.txn = txn = Txn()
            b.settings["implicit"] = True
        if txn.read_only:
            raise self._failed(b, SqlError("25006", "cannot execute in a read-only transaction"))
        if self.disk.full and self.random.random() < 0.5:
            self.observer.hit("met", "postgresql: disk full")
            raise self._failed(b, SqlError("53100", "could not extend file: No space left on device"))
        yield from self._take(b, (table, key))
        return txn

    def _take(self, b: Backend, place: Place, mode: str = EXCLUSIVE) -> Generator[Any, Any, None]:
        """Take a lock until the transaction ends. Any error aborts it."""
        try:
            if not (yield from self.lock(b, place, b.settings.get("lock_timeout_s"), mode)):
                raise SqlError("55P03", "canceling statement due to lock timeout")
        except Deadlock:
            self.observer.hit("met", "postgresql: deadlock")
            raise self._failed(b, SqlError("40P01", "deadlock detected")) from None
        except SqlError as failure:
            raise self._failed(b, failure) from None

    def change(self, b: Backend, table: str, key: Any) -> Generator[Any, Any, Txn]:
        """Lock a row to change it. Who has a snapshot changes nothing that others changed since: the first committer wins."""
        self.first_query(b)
        self._expect_unchanged(b, (table, key))
        txn = yield from self.write(b, table, key)
        self._expect_unchanged(b, (table, key))
        return txn

    def _expect_unchanged(self, b: Backend, place: Place) -> None:
        if b.txn is not None and b.txn.view and place in b.txn.view:
            self.observer.hit("met", "postgresql: the first committer won")
            raise self._failed(b, SqlError("40001", "could not serialize access due to concurrent update"))

    def _failed(self, b: Backend, error: SqlError) -> SqlError:
        self.abort(b)
        return error

    def abort(self, b: Backend) -> None:
        if b.txn is not None:
            self.store.end(b.txn, apply=False)
            if b.settings.pop("implicit", None):
                b.txn = None
            else:
                b.failed = True

    def _close(self, b: Backend) -> None:
        b.txn, b.failed = None, False
        settings = b.settings
        settings.pop("implicit", None)
        settings.pop("gate", None)
        settings.pop("note", None)
        if "outside" in settings:
            settings.update(settings.pop("outside"))

    def implicit(self, b: Backend, tag: str) -> Steps:
        """Commit a statement that stands outside any transaction block."""
        if b.settings.get("implicit"):
            yield from self.commit(b)
        return tag, ()

    # Transactions

    def begin(self, b: Backend, rest: str) -> Answer:
        if b.txn is not None:
            self.observer.violation(
                f"{self.name}: BEGIN on a session that is in a transaction: a doubtful one was pooled"
            )
        b.txn = Txn(read_only="READ ONLY" in rest, level="snapshot" if "REPEATABLE READ" in rest else "")
        return "BEGIN", ()

    def commit(self, b: Backend) -> Steps:
        txn = b.txn
        if txn is None or b.failed:
            self._close(b)
            return "COMMIT" if txn is None else "ROLLBACK", ()
        if txn.writes:
            b.firm = True
            yield from self.force(b, self.store.append(Record("commit", writes=txn.writes)))
        self.store.end(txn, apply=True)
        if "note" in b.settings:
            b.settings["noted"] = b.settings["note"]
        self._close(b)
        return "COMMIT", ()

    def roll_back(self, b: Backend) -> Answer:
        if b.txn is not None and not b.txn.over:
            self.store.end(b.txn, apply=False)
        self._close(b)
        return "ROLLBACK", ()

    def begin_again(self, b: Backend) -> Answer:
        read_only, level = (b.txn.read_only, b.txn.level) if b.txn is not None else (False, "")
        self.roll_back(b)
        b.txn = Txn(read_only=read_only, level=level)
        return "ROLLBACK", ()

    def prepare(self, b: Backend, name: str) -> Steps:
        txn = b.txn
        if txn is None or b.failed:
            self._close(b)
            self.observer.hit("met", "postgresql: PREPARE answered ROLLBACK")
            return "ROLLBACK", ()
        if name in self.store.prepared:
            self.abort(b)
            self._close(b)
            raise SqlError("42710", f'transaction identifier "{name}" is already in use')
        b.firm = True
        at_s = self.clock_s()
        record = Record("prepare", name, txn.writes, self.store.kept(txn, KEY), at_s=at_s)
        yield from self.force(b, self.store.append(record))
        self.store.prepared[name] = Prepared(txn, at_s)
        self._close(b)
        return "PREPARE TRANSACTION", ()

    def finish(self, b: Backend, name: str, *, commit: bool) -> Steps:
        what = "COMMIT" if commit else "ROLLBACK"
        if b.txn is not None:
            self.abort(b)
            raise SqlError("25001", f"{what} PREPARED cannot run inside a transaction block")
        branch = self.store.prepared.get(name)
        if branch is None:
            raise SqlError("42704", f'prepared transaction with identifier "{name}" does not exist')
        if branch.busy:
            raise SqlError("55000", f'prepared transaction with identifier "{name}" is busy')
        branch.busy = b.firm = True
        yield from self.force(b, self.store.append(Record("finish", name, commit=commit)))
        del self.store.prepared[name]
        self.store.end(branch.txn, apply=commit)
        return f"{what} PREPARED", ()

    def finish_by_hand(self, name: str, *, commit: bool) -> bool:
        branch = self.store.prepared.get(name)
        if branch is None or branch.busy or not self.up:
            return False
        self.store.force(self.store.append(Record("finish", name, commit=commit)))
        del self.store.prepared[name]
        self.store.end(branch.txn, apply=commit)
        return True

    # Snapshots, gates and keys

    def first_query(self, b: Backend) -> Answer:
        if b.txn is not None and b.txn.level:
            self.store.look(b.txn)
        return "SELECT 1", [(1,)]

    def glance(self, b: Backend) -> Answer:
        """Whoever is prepared, or whose commit is on its way to the disk, is at work. A rollback takes the note back."""
        noted, log_end = b.settings.get("noted"), len(self.store.log)
        if self.store.prepared or any(other.txn and other.txn.writes for other in self.backends.values()):
            b.settings["note"] = None
            self.observer.hit("stillness", "busy")
            return "SELECT 0", ()
        b.settings["note"] = log_end
        self.observer.hit("stillness", "unmoved" if noted == log_end else "quiet")
        return f"SELECT {2 if noted == log_end else 1}", ()

    def still(self, b: Backend) -> Answer:
        is_still = b.settings["note"] == len(self.store.log)
        self.observer.hit("stillness", "still" if is_still else "moved")
        return f"SELECT {is_still:d}", ()

    def lock_node(self, b: Backend, mode: str) -> Steps:
        """Of the gate: those who decide share it, and so do those who close it."""
        began_s = self.schedule.now
        yield from self._take(b, GATE, mode)
        is_closing = mode == "SHARE"
        if self.schedule.now > began_s:
            self.observer.hit("gate", f"postgresql: {'an opener' if is_closing else 'a decision'} was held off")
        if is_closing:
            self.closed_gate(b)
        return "LOCK TABLE", ()

    def lock_key(self, b: Backend, shared: str | None, number: str) -> Steps:
        yield from self._take(b, (KEY, number), shared or EXCLUSIVE)
        return "SELECT 1", [("",)]


_ENDERS = frozenset(
    {
        PostgreSQLTransactions.commit,
        PostgreSQLTransactions.roll_back,
        PostgreSQLTransactions.begin_again,
        PostgreSQLTransactions.prepare,
    }
)
