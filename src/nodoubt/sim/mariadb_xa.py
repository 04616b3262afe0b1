"""The transactions of a MariaDB-like server: plain ones, and the branches of XA with the states that the manual gives them.

A prepared branch stays attached to its session: others get 1397 although XA RECOVER lists it, until that session is gone, which
takes a moment; who finishes it just then is told that it was done, and the branch is hidden. A deadlock leaves a branch that can
only be rolled back. A commit is seen before it is forced. With a binary log, the end of a branch may not be forced when it is
answered, neither a commit in one phase nor a rollback: after a crash it is prepared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from typing import Any

from nodoubt.protocol.ids import XA_FORMAT, BranchId
from nodoubt.sim.locks import EXCLUSIVE, Deadlock, Place, Txn
from nodoubt.sim.server import Answer, Backend, Server, Steps
from nodoubt.sim.store import Prepared, Record, SqlError

#: No row was changed.
OK: Answer = ("0", ())
#: For longer no branch stays hidden: somebody sees it, and restarts the server.
HIDDEN_S_MAX = 60.0
#: ``innodb_lock_wait_timeout`` of a new session.
LOCK_WAIT_S = 50.0
#: The lock of the table of one row, which every decision reads.
GATE: Place = ("node", "")
#: The setting by which a snapshot also keeps what may be written.
SNAPSHOT_ISOLATION = "innodb_snapshot_isolation"
#: The states of a session's branch, by the manual's names; NONE where there is none.
NONE, ACTIVE, IDLE, PREPARED, ROLLBACK_ONLY = "NON-EXISTING", "ACTIVE", "IDLE", "PREPARED", "ROLLBACK ONLY"


def _state(b: Backend) -> str:
    return str(b.settings.get("xa", NONE))


def _wrong_state(b: Backend) -> SqlError:
    return SqlError("1399", f"XAER_RMFAIL: not when the transaction is in the {_state(b)} state")


def _unknown() -> SqlError:
    return SqlError("1397", "XAER_NOTA: Unknown XID")


class MariaDBBranches(Server):
    """See the module. ``settings["xa"]`` of a session is the state of its branch."""

    kind = "mariadb"
    #: The transaction of a prepared branch is free of its session at most this long after its name, on a machine with much to do.
    free_s = 0.1
    #: Whether it has a binary log.
    logs = False

    def spell(self, branch: BranchId) -> str:
        mark = hashlib.sha256(f"sim_{self.name}".encode()).hexdigest()[:16]
        gtrid, bqual = branch._replace(session=f"00000000{mark}").xa()
        return f"'{gtrid}','{bqual}',{XA_FORMAT}"

    def reach(self, b: Backend) -> None:
        """Called before a session uses a table. Raises SqlError."""
        if _state(b) not in (NONE, ACTIVE):
            raise _wrong_state(b)

    def write(self, b: Backend, table: str, key: Any) -> Generator[Any, Any, Txn]:
        """Lock a row for writing. A failure undoes the statement; a deadlock the whole transaction."""
        self.reach(b)
        txn = b.txn
        if txn is not None and txn.read_only:
            raise SqlError("1792", "Cannot execute statement in a READ ONLY transaction")
        if txn is None:
            b.txn = txn = Txn()
            b.settings["implicit"] = True
        if self.disk.full and self.random.random() < 0.5:
            self.observer.hit("met", "mariadb: disk full")
            raise self.failed(b, SqlError("1114", f"The table '{table}' is full"))
        yield from self.take(b, (table, key))
        return txn

    def take(self, b: Backend, place: Place, mode: str = EXCLUSIVE) -> Generator[Any, Any, None]:
        """Take a row's lock until the transaction ends."""
        try:
            got = yield from self.lock(b, place, b.settings.get("lock_wait_s", LOCK_WAIT_S), mode)
        except Deadlock:
            self.observer.hit("met", "mariadb: deadlock")
            raise self._doomed(b, SqlError("1213", "Deadlock found when trying to get lock")) from None
        if not got:
            raise self.failed(b, SqlError("1205", "Lock wait timeout exceeded"))

    def change(self, b: Backend, table: str, key: Any) -> Generator[Any, Any, Txn]:
        """Lock a row to change it. If it is told to, a transaction changes nothing that its snapshot does not show."""
        txn = yield from self.write(b, table, key)
        if txn.view and (table, key) in txn.view and b.settings.get(SNAPSHOT_ISOLATION) == "ON":
            self.observer.hit("met", "mariadb: the first committer won")
            raise self._doomed(b, SqlError("1020", f"Record has changed since last read in table '{table}'"))
        return txn

    def _doomed(self, b: Backend, error: SqlError) -> SqlError:
        """The error that undid the whole transaction."""
        assert b.txn is not None
        self.store.end(b.txn, apply=False)
        if b.branch:
            b.settings["xa"] = ROLLBACK_ONLY
        else:
            self._close(b)
        return error

    def failed(self, b: Backend, error: SqlError) -> SqlError:
        """The error of a statement, which outside any transaction takes what it did with it."""
        if b.settings.get("implicit") and b.txn is not None:
            self.store.end(b.txn, apply=False)
            self._close(b)
        return error

    def implicit(self, b: Backend, count: int) -> Steps:
        """Commit a statement that stands outside any transaction."""
        if b.settings.get("implicit") and b.txn is not None:
            yield from self._commit_txn(b, b.txn)
        return str(count), ()

    def _close(self, b: Backend) -> None:
        b.txn, b.branch = None, ""
        for key in ("implicit", "xa", "wrote", "savepoint"):
            b.settings.pop(key, None)

    def _commit_txn(self, b: Backend, txn: Txn) -> Generator[Any, Any, None]:
        """Seen at once, without any lock, and answered when it is forced."""
        self.store.end(txn, apply=True)
        self._close(b)
        if txn.writes:
            yield from self.force(b, self.store.append(Record("commit", writes=txn.writes)))

    # Plain transactions

    def start_transaction(self, b: Backend) -> Answer:
        """``START TRANSACTION``."""
        self._expect_clean(b)
        if b.branch:
            raise _wrong_state(b)
        b.txn = self._txn(b)
        return OK

    def set_savepoint(self, b: Backend) -> Answer:
        """``SAVEPOINT nodoubt_transaction``."""
        b.settings["savepoint"] = True
        return OK

    def release_savepoint(self, b: Backend) -> Answer:
        """``RELEASE SAVEPOINT nodoubt_transaction``."""
        if not b.settings.pop("savepoint", False):
            raise SqlError("1305", "SAVEPOINT nodoubt_transaction does not exist")
        return OK

    def _txn(self, b: Backend) -> Txn:
        """A transaction of the level that was set for the next one."""
        return Txn(read_only=bool(b.settings.get("read_only")), level=b.settings.pop("next level", ""))

    def _expect_clean(self, b: Backend) -> None:
        if b.txn is not None:
            self.observer.violation(f"{self.name}: START on a session in a transaction: a doubtful one was pooled")

    def commit(self, b: Backend) -> Steps:
        """``COMMIT``."""
        if b.branch:
            raise _wrong_state(b)
        if b.txn is not None:
            yield from self._commit_txn(b, b.txn)
        return OK

    def roll_back(self, b: Backend) -> Answer:
        """``ROLLBACK``."""
        if b.branch:
            raise _wrong_state(b)
        return self._undo(b)

    def _undo(self, b: Backend) -> Answer:
        if b.txn is not None and not b.txn.over:
            self.store.end(b.txn, apply=False)
        self._close(b)
        return OK

    # XA

    def xa_start(self, b: Backend, xid: str) -> Answer:
        """``XA START``."""
        self._expect_clean(b)
        if b.txn is not None:
            raise _wrong_state(b) if b.branch else _outside()
        if xid in self.listed() or any(other.branch == xid for other in self.backends.values()):
            raise SqlError("1440", "XAER_DUPID: The XID already exists")
        b.txn = self._txn(b)
        b.branch, b.settings["xa"] = xid, ACTIVE
        return OK

    def xa_end(self, b: Backend, xid: str) -> Answer:
        """``XA END``."""
        if _state(b) != ACTIVE:
            raise _wrong_state(b)
        if b.branch != xid:
            raise _unknown()
        b.settings["xa"] = IDLE
        return OK

    def xa_prepare(self, b: Backend, xid: str) -> Steps:
        """``XA PREPARE``."""
        if _state(b) != IDLE or b.txn is None:
            raise _wrong_state(b)
        if b.branch != xid:
            raise _unknown()
        b.settings["xa"] = PREPARED
        hidden = self.store.prepared.get(xid)
        if hidden is not None:
            if "wrote" not in b.settings:
                self.observer.violation(
                    f"{self.name}: {xid} is said again by a transaction that can only be rolled back"
                )
            hidden.hidden, hidden.owner = False, b
            return OK
        at_s = self.clock_s()
        self.store.prepared[xid] = Prepared(b.txn, at_s, owner=b)
        yield from self.force(b, self.store.append(Record("prepare", xid, b.txn.writes, at_s=at_s)))
        return OK

    def xa_one_phase(self, b: Backend, xid: str) -> Steps:
        """``XA COMMIT … ONE PHASE``."""
        self._own_or_outside(b, xid)
        if _state(b) in (NONE, PREPARED):
            raise SqlError("1398", "XAER_INVAL: Invalid arguments")
        if _state(b) != IDLE or b.txn is None:
            raise _wrong_state(b)
        if not self.logs:
            yield from self._commit_txn(b, b.txn)
            return OK
        writes = b.txn.writes
        prepared = self.store.append(Record("prepare", xid, writes, at_s=self.clock_s()))
        self.store.append(Record("finish", xid, writes))
        self.store.end(b.txn, apply=True)
        self._close(b)
        yield from self.force(b, prepared)
        return OK

    def xa_finish(self, b: Backend, xid: str, *, commit: bool) -> Steps:
        """``XA COMMIT`` and ``XA ROLLBACK``, of this session's branch or of one that nobody is attached to."""
        self._own_or_outside(b, xid)
        state = _state(b)
        if state == ACTIVE or (state == IDLE and commit):
            raise _wrong_state(b)
        if state in (IDLE, ROLLBACK_ONLY):
            self._undo(b)
            if commit:
                raise SqlError("1614", "XA_RBDEADLOCK: the branch was rolled back")
            return OK
        branch = self.store.prepared.get(xid)
        if branch is None or branch.hidden or branch.owner not in (None, b):
            raise _unknown()
        if self.schedule.now < branch.free_at_s:
            self.observer.say(self.name, f"loses sight of {xid}")
            branch.hidden = True
            self.schedule.after(HIDDEN_S_MAX, self._restart_for, branch)
            return OK
        length = self._finish(xid, commit=commit)
        if b.branch:
            self._close(b)
        if commit or not self.logs:
            yield from self.force(b, length)
        return OK

    def _own_or_outside(self, b: Backend, xid: str) -> None:
        """Whoever is in a transaction can end no other branch than his own."""
        if b.txn is not None and b.branch != xid:
            raise _outside()

    def _finish(self, xid: str, *, commit: bool) -> int:
        branch = self.store.prepared.pop(xid)
        self.store.end(branch.txn, apply=commit)
        return self.store.append(Record("finish", xid, commit=commit))

    def _restart_for(self, branch: Prepared) -> None:
        """Somebody does what he is told to do about a branch that stays hidden."""
        if branch.hidden and self.up and not self.paused:
            self.observer.say(self.name, "is restarted, as a branch stays hidden")
            self.store.force(len(self.store.log))
            self.crash()

    def listed(self) -> list[str]:
        """The branches whose names the server knows."""
        return [name for name, branch in self.store.prepared.items() if not branch.hidden]

    def finish_by_hand(self, name: str, *, commit: bool) -> bool:
        branch = self.store.prepared.get(name)
        is_free = branch is not None and branch.owner is None and self.schedule.now >= branch.free_at_s
        if branch is None or branch.hidden or not is_free or not self.up:
            return False
        self.store.force(self._finish(name, commit=commit))
        return True

    def ended(self, backend: Backend) -> None:
        if _state(backend) == PREPARED:
            branch = self.store.prepared.get(backend.branch)
            if branch is not None and branch.owner is backend:
                branch.owner = None
                if branch.txn is backend.txn:
                    branch.free_at_s = self.schedule.now + self.free_s * self.random.random()
            backend.txn = None
        super().ended(backend)


def _outside() -> SqlError:
    return SqlError("1400", "XAER_OUTSIDE: Some work is done outside global transaction")
