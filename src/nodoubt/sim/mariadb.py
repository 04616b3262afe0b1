"""A MariaDB-like server: the texts of the dialect, and how the real one answers them.

A prepared branch stays attached to its session: others get 1397 although XA RECOVER lists it, until that session is gone, which
takes a moment. A failed statement does not doom a branch; a deadlock does. A commit is seen before it is forced. A named lock is
held as long as its session.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from typing import Any

from nodoubt.protocol.ids import XA_FORMAT, BranchId
from nodoubt.sim.server import Answer, Backend, Server, Steps, quoted, texts
from nodoubt.sim.store import Deadlock, Prepared, Record, SqlError, Txn

DECISION, BRANCH = "decision", "branch"
#: No row was changed.
OK: Answer = ("0", ())
#: ``innodb_lock_wait_timeout`` of a new session.
LOCK_WAIT_S = 50.0
#: A killed session is gone after this long.
KILL_S = 0.01


class MariaDBServer(Server):
    """See the module. ``settings["xa"]`` of a session is the state of its branch: ACTIVE, IDLE or PREPARED."""

    kind = "mariadb"
    decision_columns = 6

    def spell(self, branch: BranchId) -> str:
        mark = hashlib.sha256(f"sim_{self.name}".encode()).hexdigest()[:16]
        gtrid, bqual = replace(branch, session=f"00000000{mark}").xa()
        return f"'{gtrid}','{bqual}',{XA_FORMAT}"

    def _write(self, b: Backend, table: str, key: Any) -> Generator[Any, Any, Txn]:
        """Lock a row for writing. A failure undoes the statement; a deadlock the whole transaction."""
        txn = b.txn
        if b.failed:
            raise SqlError("1402", "XA_RBROLLBACK: the branch was rolled back")
        if b.settings.get("xa", "ACTIVE") != "ACTIVE":
            raise SqlError("1399", "XAER_RMFAIL: the command cannot be executed in this state")
        if b.settings.get("read_only"):
            raise SqlError("1792", "Cannot execute statement in a READ ONLY transaction")
        if txn is None:
            b.txn = txn = Txn()
            b.settings["implicit"] = True
        if self.disk.full and self.random.random() < 0.5:
            self.observer.hit("met", "mariadb: disk full")
            raise self._failed(b, SqlError("1114", f"The table '{table}' is full"))
        try:
            got = yield from self.lock(b, table, key, b.settings.get("lock_wait_s", LOCK_WAIT_S))
        except Deadlock:
            self.observer.hit("met", "mariadb: deadlock")
            self.store.end(txn, apply=False)
            if b.branch:
                b.failed = True
            else:
                self._close(b)
            raise SqlError("1213", "Deadlock found when trying to get lock") from None
        if not got:
            raise self._failed(b, SqlError("1205", "Lock wait timeout exceeded"))
        return txn

    def _failed(self, b: Backend, error: SqlError) -> SqlError:
        if b.settings.get("implicit") and b.txn is not None:
            self.store.end(b.txn, apply=False)
            self._close(b)
        return error

    def _close(self, b: Backend) -> None:
        b.txn, b.failed, b.branch = None, False, ""
        for key in ("implicit", "xa"):
            b.settings.pop(key, None)

    def _commit_txn(self, b: Backend, txn: Txn) -> Generator[Any, Any, None]:
        """Seen at once, and answered when it is forced."""
        self.store.end(txn, apply=True)
        self._close(b)
        if txn.writes:
            yield from self.force(b, self.store.append(Record("commit", writes=txn.writes)))

    def _implicit(self, b: Backend, count: int) -> Steps:
        if b.settings.get("implicit") and b.txn is not None:
            yield from self._commit_txn(b, b.txn)
        return str(count), ()

    # Transactions

    def _start(self, b: Backend) -> Answer:
        if b.txn is not None:
            self.observer.violation(f"{self.name}: START on a session in a transaction: a doubtful one was pooled")
        b.txn = Txn()
        return OK

    def _commit(self, b: Backend) -> Steps:
        if b.txn is not None:
            yield from self._commit_txn(b, b.txn)
        return OK

    def _rollback(self, b: Backend) -> Answer:
        if b.txn is not None:
            self.store.end(b.txn, apply=False)
        self._close(b)
        return OK

    def _xa_start(self, b: Backend, xid: str) -> Answer:
        self._start(b)
        if xid in self.store.prepared:
            raise SqlError("1440", "XAER_DUPID: The XID already exists")
        b.branch, b.settings["xa"] = xid, "ACTIVE"
        return OK

    def _xa_end(self, b: Backend, xid: str) -> Answer:
        if b.branch != xid:
            raise SqlError("1397" if not b.branch else "1399", "XAER: no such branch is active here")
        if b.settings["xa"] != "ACTIVE":
            raise SqlError("1399", "XAER_RMFAIL: the branch is not active")
        b.settings["xa"] = "IDLE"
        if b.failed:
            raise SqlError("1614", "XA_RBDEADLOCK: the branch was rolled back")
        return OK

    def _xa_prepare(self, b: Backend, xid: str) -> Steps:
        if b.branch != xid or b.settings["xa"] != "IDLE" or b.txn is None:
            raise SqlError("1399", "XAER_RMFAIL: the branch is not idle")
        if b.failed:
            raise SqlError("1614", "XA_RBDEADLOCK: the branch was rolled back")
        b.settings["xa"] = "PREPARED"
        at_s = self.clock_s()
        self.store.prepared[xid] = Prepared(b.txn, at_s, owner=b)
        yield from self.force(b, self.store.append(Record("prepare", xid, b.txn.writes, at_s=at_s)))
        return OK

    def _xa_one_phase(self, b: Backend, xid: str) -> Steps:
        if b.branch != xid or b.settings["xa"] != "IDLE" or b.txn is None:
            raise SqlError("1399", "XAER_RMFAIL: the branch is not idle")
        yield from self._commit_txn(b, b.txn)
        return OK

    def _xa_finish(self, b: Backend, xid: str, *, commit: bool) -> Steps:
        if b.branch == xid and b.settings["xa"] != "PREPARED":
            if commit or b.settings["xa"] == "ACTIVE":
                raise SqlError("1399", "XAER_RMFAIL: the branch is in another state")
            return self._rollback(b)
        if b.branch and b.branch != xid:
            raise SqlError("1399", "XAER_RMFAIL: another branch is open on this session")
        branch = self.store.prepared.get(xid)
        if branch is None or branch.owner not in (None, b):
            if branch is not None:
                self.observer.hit("met", "mariadb: 1397 while attached")
            raise SqlError("1397", "XAER_NOTA: Unknown XID")
        length = self._finish(xid, commit=commit)
        if b.branch == xid:
            self._close(b)
        yield from self.force(b, length)
        return OK

    def _finish(self, xid: str, *, commit: bool) -> int:
        branch = self.store.prepared.pop(xid)
        self.store.end(branch.txn, apply=commit)
        return self.store.append(Record("finish", xid, commit=commit))

    def finish_by_hand(self, name: str, *, commit: bool) -> bool:
        branch = self.store.prepared.get(name)
        if branch is None or branch.owner is not None or not self.up:
            return False
        self.store.force(self._finish(name, commit=commit))
        return True

    def ended(self, backend: Backend) -> None:
        if backend.settings.get("xa") == "PREPARED":
            branch = self.store.prepared.get(backend.branch)
            if branch is not None and branch.owner is backend:
                branch.owner = None
            backend.txn = None
        super().ended(backend)

    # Our tables

    def _evidence(self, b: Backend, gid: str, branch: str) -> Steps:
        key = (gid, int(branch))
        txn = yield from self._write(b, BRANCH, key)
        if self.store.read(txn, BRANCH, key) is not None:
            raise self._failed(b, SqlError("1062", f"Duplicate entry '{gid}-{branch}' for key 'PRIMARY'", "PRIMARY"))
        txn.writes[BRANCH, key] = True
        return (yield from self._implicit(b, 1))

    def _decide(self, b: Backend, gid: str, participants: str, complete: str) -> Steps:
        txn = yield from self._write(b, DECISION, gid)
        if self.store.read(txn, DECISION, gid) is not None:
            raise self._failed(b, SqlError("1062", f"Duplicate entry '{gid}' for key 'PRIMARY'", "PRIMARY"))
        txn.writes[DECISION, gid] = ("committed", participants, complete == "1", self.clock_s(), "", 0)
        return "1", ()

    def _probe(self, b: Backend, values: str) -> Steps:
        gids = quoted(values)[::4]
        for gid in gids:
            txn = yield from self._write(b, DECISION, gid)
            row = self.store.read(txn, DECISION, gid)
            probed = ("aborted", "{}", False, self.clock_s(), "", 0) if row is None else (*row[:5], row[5] + 1)
            txn.writes[DECISION, gid] = probed
        return (yield from self._implicit(b, len(gids)))

    def _decisions(self, b: Backend, gids: str) -> Answer:
        rows = self.store.rows(b.txn, DECISION)
        return "", [self._row(gid, rows[gid]) for gid in quoted(gids) if gid in rows]

    def _unfinished(self, b: Backend, limit: str) -> Answer:
        found = [
            (gid, row) for gid, row in self.store.rows(b.txn, DECISION).items() if not row[2] and row[0] != "aborted"
        ]
        return "", [self._row(gid, row) for gid, row in sorted(found)[: int(limit)]]

    def _row(self, gid: str, row: Any) -> tuple[Any, ...]:
        return gid, row[0], row[1], int(row[2]), self.clock_s() - row[3], row[4], row[5]

    def _touch(self, b: Backend, gids: str, *, complete: bool) -> Steps:
        count = 0
        for gid in quoted(gids):
            txn = yield from self._write(b, DECISION, gid)
            row = self.store.read(txn, DECISION, gid)
            if row is not None:
                count += 1
                if complete:
                    self.completing(gid)
                txn.writes[DECISION, gid] = (*row[:2], row[2] or complete, *row[3:5], row[5] + 1)
        return (yield from self._implicit(b, count))

    def _applied(self, b: Backend, gids: str) -> Answer:
        wanted = set(quoted(gids))
        return "", [key for key in self.store.rows(b.txn, BRANCH) if key[0] in wanted]

    def _drop_evidence(self, b: Backend, gids: str) -> Steps:
        wanted = set(quoted(gids))
        keys = [key for key in self.store.rows(b.txn, BRANCH) if key[0] in wanted]
        return (yield from self._delete(b, BRANCH, keys))

    def _drop_decision(self, b: Backend, gids: str) -> Steps:
        return (yield from self._delete(b, DECISION, quoted(gids)))

    def _old_evidence(self, b: Backend, before: str, limit: str) -> Answer:
        gids = sorted(gid for gid, _ in self.store.rows(b.txn, BRANCH) if gid < before)
        return "", [(gid,) for gid in gids[: int(limit)]]

    def _purge(self, b: Backend, before: str, retention_s: str, limit: str) -> Steps:
        oldest = self.clock_s() - float(retention_s)
        rows = sorted(self.store.rows(b.txn, DECISION).items())
        gids = [gid for gid, row in rows if gid < before and (row[2] or row[0] == "aborted") and row[3] < oldest]
        if gids:
            self.observer.hit("met", "mariadb: decisions purged")
        return (yield from self._delete(b, DECISION, gids[: int(limit)]))

    def _delete(self, b: Backend, table: str, keys: list[Any]) -> Steps:
        for key in keys:
            txn = yield from self._write(b, table, key)
            txn.writes[table, key] = None
        return (yield from self._implicit(b, len(keys)))

    def _identity(self, b: Backend) -> Answer:
        return "", list(self.store.tables["node"].values())

    # Sessions and settings

    def _get_lock(self, b: Backend, name: str) -> Answer:
        if self._owner(name) is not None:
            return "", [(0,)]
        b.settings["named"] = name
        return "", [(1,)]

    def _used_lock(self, b: Backend, name: str) -> Answer:
        return "", [(self._owner(name),)]

    def _owner(self, name: str) -> int | None:
        return next((number for number, other in self.backends.items() if other.settings.get("named") == name), None)

    def _kill(self, b: Backend, number: str) -> Answer:
        other = self.backends.get(int(number))
        if other is None:
            raise SqlError("1094", f"Unknown thread id: {number}")
        self.observer.hit("met", "mariadb: session killed")
        self.schedule.after(KILL_S * self.random.random(), other.terminate)
        return OK

    def _sleep(self, b: Backend, seconds: str) -> Steps:
        yield float(seconds)
        return "", [(0,)]

    def _limit(self, b: Backend, seconds: str) -> Answer:
        b.settings["idle_limit_s"] = float(seconds)
        return OK

    def _lock_wait(self, b: Backend, seconds: str) -> Answer:
        b.settings["lock_wait_s"] = float(seconds)
        return OK

    def _read_only(self, b: Backend, what: str) -> Answer:
        b.settings["read_only"] = what == "ONLY"
        return OK

    def _nothing(self, b: Backend) -> Answer:
        return OK

    def _learn(self, b: Backend) -> Answer:
        return "", [(f"sim_{self.name}", 0, "10.11.19-MariaDB", "MIXED")]

    def _clock(self, b: Backend) -> Answer:
        return "", [(self.clock_s(),)]

    def _recover(self, b: Backend) -> Answer:
        rows = []
        for xid in self.store.prepared:
            gtrid, bqual, form = xid.split(",")
            first, second = gtrid.strip("'"), bqual.strip("'")
            rows.append((int(form), len(first), len(second), (first + second).encode()))
        return "", rows

    # The workload

    def _look(self, b: Backend, key: Any) -> Answer:
        """At REPEATABLE READ the first look is what a transaction goes on to see, beside its own writes."""
        txn = b.txn
        assert txn is not None
        if ("list", key) in txn.writes:
            return "", [(txn.writes["list", key],)]
        if txn.view is None:
            txn.view = self.store.snapshot()
        return "", [(txn.view["list"][key],)]

    def _append(self, b: Backend, tag: Any, key: Any) -> Steps:
        txn = yield from self._write(b, "list", key)
        txn.writes["list", key] = (*self.store.read(txn, "list", key), tag)
        return "1", ()

    def _move(self, b: Backend, amount: Any, key: Any) -> Steps:
        txn = yield from self._write(b, "account", key)
        balance = self.store.read(txn, "account", key) + amount
        if balance < 0:
            raise SqlError("4025", "CONSTRAINT `balance` failed for `account`")
        txn.writes["account", key] = balance
        return "1", ()

    texts = texts(
        (r"XA START (.*)", _xa_start),
        (r"XA END (.*)", _xa_end),
        (r"XA PREPARE (.*)", _xa_prepare),
        (r"XA COMMIT (\S*) ONE PHASE", _xa_one_phase),
        (r"XA COMMIT (\S*)", partial(_xa_finish, commit=True)),
        (r"XA ROLLBACK (\S*)", partial(_xa_finish, commit=False)),
        (r"XA RECOVER", _recover),
        (r"START TRANSACTION", _start),
        (r"COMMIT", _commit),
        (r"ROLLBACK", _rollback),
        (r"INSERT INTO \S*nodoubt_branch VALUES \('(.*)',\s*(\d+)\)", _evidence),
        (r"INSERT INTO \S*nodoubt_decision \(gid, .* VALUES \('(.*)','committed','(.*)',([01]),''\)", _decide),
        (r"INSERT INTO \S*nodoubt_decision .* VALUES (.*) ON DUPLICATE KEY UPDATE .*", _probe),
        (r"UPDATE \S*nodoubt_decision SET probes = .* IN \((.*)\)", partial(_touch, complete=False)),
        (r"UPDATE \S*nodoubt_decision SET complete = 1.* IN \((.*)\)", partial(_touch, complete=True)),
        (r"UPDATE list SET items = CONCAT\(items, %s\) WHERE id = %s", _append),
        (r"UPDATE account SET balance = balance \+ %s WHERE id = %s", _move),
        (r"DELETE FROM \S*nodoubt_branch WHERE gid (?:IN|=) (.*)", _drop_evidence),
        (r"DELETE FROM \S*nodoubt_decision WHERE gid = (.*)", _drop_decision),
        (r"DELETE FROM .* gid < '(.*)' AND .* INTERVAL (\S+) SECOND .* LIMIT (\d+)", _purge),
        (r"SELECT items FROM list WHERE id = %s", _look),
        (r"SELECT gid, decision, .* WHERE gid IN \((.*)\)", _decisions),
        (r"SELECT gid, decision, .* WHERE complete = 0 .* LIMIT (\d+)", _unfinished),
        (r"SELECT gid, branch FROM \S*nodoubt_branch WHERE gid IN \((.*)\)", _applied),
        (r"SELECT gid FROM \S*nodoubt_branch WHERE gid < '(.*)' ORDER BY gid LIMIT (\d+)", _old_evidence),
        (r"SELECT GET_LOCK\('(.*)', 0\)", _get_lock),
        (r"SELECT IS_USED_LOCK\('(.*)'\)", _used_lock),
        (r"SELECT SLEEP\((.*)\)", _sleep),
        (r"SELECT DATABASE\(\), .*", _learn),
        (r"SELECT UNIX_TIMESTAMP\(NOW\(6\)\)", _clock),
        (r"SELECT VERSION\(\)", lambda *_: ("", [("10.11.19-MariaDB",)])),
        (r"SELECT @@innodb_flush_log_at_trx_commit, .*", lambda *_: ("", [(1, 0, 0)])),
        (r"SELECT table_name FROM information_schema.tables .*", _nothing),
        (r"SELECT name, domain, id, schema_version FROM \S*nodoubt_node", _identity),
        (r"SET SESSION idle_transaction_timeout = (\d+)", _limit),
        (r"SET SESSION innodb_lock_wait_timeout = (\d+)", _lock_wait),
        (r"SET SESSION TRANSACTION READ (ONLY|WRITE)", _read_only),
        (r"SET TRANSACTION ISOLATION LEVEL READ COMMITTED", _nothing),
        (r"KILL (\d+)", _kill),
    )
