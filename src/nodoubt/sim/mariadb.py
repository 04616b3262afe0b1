"""A MariaDB-like server: the texts of the dialect about tables, and how the real one answers them.

A failed statement does not doom a branch; a deadlock does. A row that changes is locked whether others see it yet or not. A named
lock is held as long as its session.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from nodoubt.nodes.mariadb_tables import SIGN
from nodoubt.sim.locks import Txn
from nodoubt.sim.mariadb_xa import GATE, OK, SNAPSHOT_ISOLATION, MariaDBBranches
from nodoubt.sim.server import Answer, Backend, Steps, quoted, texts
from nodoubt.sim.store import SqlError

DECISION, BRANCH = "decision", "branch"
#: ``lock_wait_timeout`` of a new session.
TABLE_WAIT_S = 86400.0
TABLES = "lock_wait_timeout"
#: Settings that have another name here.
_NAMES = {
    "innodb_lock_wait_timeout": "lock_wait_s",
    "wait_timeout": "idle_limit_s",
    "idle_transaction_timeout": "idle_limit_s",
}
#: A killed session is gone after this long.
KILL_S = 0.01


class MariaDBServer(MariaDBBranches):
    """See the module."""

    decision_columns = 6
    #: Called with the key of a row that somebody reads and that is not on the disk yet.
    shows_unforced: Callable[[str], None] = staticmethod(lambda key: None)

    def forget_unforced(self) -> None:
        """Die without anything that was not forced."""
        self.store.lose(self.store.forced)
        self.crash()

    # Our tables

    def _evidence(self, b: Backend, gid: str, branch: str) -> Steps:
        key = (gid, int(branch))
        txn = yield from self.write(b, BRANCH, key)
        if self.store.read(txn, BRANCH, key) is not None:
            raise self.failed(b, SqlError("1062", f"Duplicate entry '{gid}-{branch}' for key 'PRIMARY'", "PRIMARY"))
        txn.writes[BRANCH, key] = True
        return (yield from self.implicit(b, 1))

    def _pass(self, b: Backend) -> Steps:
        return (yield from self._evidence(b, "", str(b.number)))

    def _pass_on(self, b: Backend) -> Steps:
        txn = yield from self.write(b, BRANCH, ("", b.number))
        txn.writes[BRANCH, ("", b.number)] = None
        return "1", ()

    def _variables(self, b: Backend) -> Answer:
        variables = {
            "innodb_flush_log_at_trx_commit": "1",
            "log_bin": "ON" if self.logs else "OFF",
            "sync_binlog": "1",
            SNAPSHOT_ISOLATION: "OFF",
        }
        return "", [*variables.items()]

    def _signed(self, b: Backend, gid: str) -> Answer:
        return "", [(self._has_sign(b, gid),)]

    def _has_sign(self, b: Backend, gid: str) -> int:
        """The row that stands among the evidence from the beginning is kept nowhere."""
        self.reach(b)
        return int(any(gid == f"{SIGN}{database}" for _, _, database, _ in self.store.tables["node"].values()))

    def _decide(self, b: Backend, gid: str, participants: str, complete: str) -> Steps:
        self.reach(b)
        began_s = self.schedule.now
        if not (yield from self.lock(b, GATE, b.settings.get(TABLES, TABLE_WAIT_S), "read")):
            raise self.failed(b, SqlError("1205", "Lock wait timeout exceeded"))
        if self.schedule.now > began_s:
            self.observer.hit("gate", "mariadb: a decision was held off")
        txn = yield from self.write(b, DECISION, gid)
        if self.store.read(txn, DECISION, gid) is not None:
            raise self.failed(b, SqlError("1062", f"Duplicate entry '{gid}' for key 'PRIMARY'", "PRIMARY"))
        txn.writes[DECISION, gid] = ("committed", participants, complete == "1", self.clock_s(), "", 0)
        return "1", ()

    def _set_reason(self, b: Backend, until_s: str) -> Answer:
        b.settings["reason"] = "" if self.clock_s() < float(until_s) else None
        return OK

    def _probe(self, b: Backend, values: str) -> Steps:
        count = 0
        if b.settings["reason"] is None:
            raise self.failed(b, SqlError("1048", "Column 'reason' cannot be null"))
        for gid in quoted(values)[::3]:
            txn = yield from self.write(b, DECISION, gid)
            row = self.store.read(txn, DECISION, gid)
            probed = ("aborted", "{}", False, self.clock_s(), "", 0) if row is None else (*row[:5], row[5] + 1)
            txn.writes[DECISION, gid] = probed
            # A row that was there counts twice: MariaDB's manual, INSERT ON DUPLICATE KEY UPDATE.
            count += 1 if row is None else 2
        return (yield from self.implicit(b, count))

    def _decisions(self, b: Backend, gids: str) -> Answer:
        rows = self._rows(b, DECISION)
        return "", [self._row(gid, rows[gid]) for gid in quoted(gids) if gid in rows]

    def _unfinished(self, b: Backend, limit: str) -> Answer:
        found = [(gid, row) for gid, row in self._rows(b, DECISION).items() if not row[2] and row[0] != "aborted"]
        return "", [self._row(gid, row) for gid, row in sorted(found)[: int(limit)]]

    def _row(self, gid: str, row: Any) -> tuple[Any, ...]:
        return gid, row[0], row[1], int(row[2]), self.clock_s() - row[3], row[4], row[5]

    def _touch(self, b: Backend, gids: str, *, complete: bool) -> Steps:
        count = 0
        for gid in quoted(gids):
            txn = yield from self.write(b, DECISION, gid)
            row = self.store.read(txn, DECISION, gid)
            if row is not None:
                count += 1
                if complete:
                    self.completing(gid)
                since_s = self.clock_s() if complete and not row[2] else row[3]
                txn.writes[DECISION, gid] = (*row[:2], row[2] or complete, since_s, row[4], row[5] + 1)
        return (yield from self.implicit(b, count))

    def _applied(self, b: Backend, gids: str) -> Answer:
        wanted = set(quoted(gids))
        return "", [key for key in self._rows(b, BRANCH) if key[0] in wanted]

    def _held(self, b: Backend, gid: str, branch: str) -> Answer:
        key = (gid, int(branch))
        if self.store.is_locked(b.txn, BRANCH, key):
            raise SqlError("1205", "Lock wait timeout exceeded")
        self.reach(b)
        rows = [(1,)] if self.store.read(b.txn, BRANCH, key) is not None else []
        return str(len(rows)), rows

    def _write_nothing(self, b: Backend) -> Steps:
        yield from self._identity(b, "0")
        b.settings["wrote"] = True
        return OK

    def _drop_evidence(self, b: Backend, gids: str) -> Steps:
        wanted = set(quoted(gids))
        keys = [key for key in self.store.keys(BRANCH) if key[0] in wanted]
        return (yield from self._delete(b, BRANCH, keys, lambda row: True, len(keys)))

    def _old_evidence(self, b: Backend, before: str, limit: str) -> Answer:
        gids = sorted((gid for gid, _ in self._rows(b, BRANCH) if gid < before), reverse=True)
        return "", [(gid,) for gid in gids[: int(limit)]]

    def _purge(self, b: Backend, before: str, retention_s: str, limit: str) -> Steps:
        oldest = self.clock_s() - float(retention_s)
        keys = [gid for gid in self.store.keys(DECISION) if gid < before]

        def is_old(row: Any) -> bool:
            return bool((row[2] or row[0] == "aborted") and row[3] < oldest)

        tag, rows = yield from self._delete(b, DECISION, keys, is_old, int(limit))
        if tag != "0":
            self.observer.hit("met", "mariadb: decisions purged")
        return tag, rows

    def _delete(self, b: Backend, table: str, keys: Sequence[Any], wanted: Callable[[Any], bool], limit: int) -> Steps:
        """Whether a row is wanted is asked when it is locked; what others lock, perhaps not seen yet, is waited for."""
        count = 0
        for key in keys:
            if count == limit:
                break
            row = self.store.read(b.txn, table, key)
            if not self.store.is_locked(b.txn, table, key) and not (row is not None and wanted(row)):
                continue
            txn = yield from self.write(b, table, key)
            row = self.store.read(txn, table, key)
            if row is not None and wanted(row):
                txn.writes[table, key] = None
                count += 1
        return (yield from self.implicit(b, count))

    def _rows(self, b: Backend, table: str) -> dict[Any, Any]:
        self.reach(b)
        return self.store.rows(b.txn, table)

    def _identity(self, b: Backend, sign: str) -> Steps:
        self.reach(b)
        reader = Txn()
        yield from self.store.lock(reader, GATE, None, "read")
        self.store.release(reader)
        return "", [(*row, int(sign != "0")) for row in self.store.tables["node"].values()]

    # The gate: what keeps it closed is a transaction of its session, as far as locks and time-outs go

    def _opener(self, b: Backend) -> Txn:
        if b.txn is None:
            b.txn = Txn()
        return b.txn

    def _get_gate(self, b: Backend, name: str, seconds: str) -> Steps:
        got = yield from self.store.lock(self._opener(b), ("named", name), float(seconds))
        return "", [(int(got),)]

    def _lock_tables(self, b: Backend) -> Steps:
        began_s = self.schedule.now
        if not (yield from self.store.lock(self._opener(b), GATE, b.settings.get(TABLES, TABLE_WAIT_S))):
            raise SqlError("1205", "Lock wait timeout exceeded")
        if self.schedule.now > began_s:
            self.observer.hit("gate", "mariadb: an opener was held off")
        self.closed_gate(b)
        return OK

    def _unlock_tables(self, b: Backend) -> Answer:
        b.settings.pop("gate", None)
        self.store.end(self._opener(b), apply=False)
        b.txn = None
        return OK

    # Sessions and settings

    def _keep(self, b: Backend, names: str) -> Answer:
        """Copy settings to user variables."""
        for name in re.findall(r"@@(\w+)", names):
            b.settings[f"@nodoubt_{name}"] = b.settings.get(_NAMES.get(name, name))
        return OK

    def _set(self, b: Backend, changes: str) -> Answer:
        for change in changes.split(","):
            name, value = change.split("=")
            kept = b.settings.get(value) if value.startswith("@") else None
            b.settings[_NAMES.get(name, name)] = float(value) if value.isdigit() else value if value == "ON" else kept
        for name in [name for name, value in b.settings.items() if value is None]:
            del b.settings[name]
        return OK

    def _next_level(self, b: Backend, level: str) -> Answer:
        b.settings["next level"] = level
        return OK

    def _first_look(self, b: Backend) -> Answer:
        self.reach(b)
        if b.txn is not None:
            self.store.look(b.txn)
        return OK

    def _get_lock(self, b: Backend, name: str) -> Answer:
        if self._owner(name) is not None:
            return "", [(0,)]
        b.settings["named"] = name
        return "", [(1,)]

    def _set_up(self, b: Backend, name: str, gid: str | None) -> Answer:
        ((held,),) = self._get_lock(b, name)[1]
        return "", [(held, int(self.logs), self._has_sign(b, gid) if gid else 1)]

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

    def _lock_wait(self, b: Backend, seconds: str) -> Answer:
        b.settings["lock_wait_s"] = float(seconds)
        return OK

    def _read_only(self, b: Backend, what: str) -> Answer:
        b.settings["read_only"] = what == "ONLY"
        return OK

    def _nothing(self, b: Backend) -> Answer:
        return OK

    def _learn(self, b: Backend) -> Answer:
        return "", [(f"sim_{self.name}", 0, "10.11.19-MariaDB", int(self.logs), "MIXED")]

    def _clock(self, b: Backend) -> Answer:
        return "", [(self.clock_s(),)]

    def _recover(self, b: Backend) -> Answer:
        rows = []
        for xid in self.listed():
            gtrid, bqual, form = xid.split(",")
            first, second = gtrid.strip("'"), bqual.strip("'")
            rows.append((int(form), len(first), len(second), (first + second).encode()))
        return "", rows

    # The workload

    def _look(self, b: Backend, key: Any) -> Steps:
        """At REPEATABLE READ the first look is what a transaction goes on to see, beside its own writes."""
        self.reach(b)
        txn = b.txn
        assert txn is not None
        if txn.level == "SERIALIZABLE":
            yield from self.take(b, ("list", key), "read")
        else:
            self.store.look(txn)
        if ("list", key) not in (txn.view or {}) and self.store.is_unforced(("list", key)):
            self.store.shown.add(("list", key))
            self.shows_unforced(key)
        return "", [(self.store.seen(txn, "list", key),)]

    def _append(self, b: Backend, tag: Any, key: Any) -> Steps:
        txn = yield from self.change(b, "list", key)
        txn.writes["list", key] = (*self.store.read(txn, "list", key), tag)
        return "1", ()

    def _move(self, b: Backend, amount: Any, key: Any) -> Steps:
        txn = yield from self.change(b, "account", key)
        balance = self.store.read(txn, "account", key) + amount
        if balance < 0:
            raise SqlError("4025", "CONSTRAINT `balance` failed for `account`")
        txn.writes["account", key] = balance
        return "1", ()

    texts = texts(
        (r"XA START (.*)", MariaDBBranches.xa_start),
        (r"XA END (.*)", MariaDBBranches.xa_end),
        (r"XA PREPARE (.*)", MariaDBBranches.xa_prepare),
        (r"XA COMMIT (\S*) ONE PHASE", MariaDBBranches.xa_one_phase),
        (r"XA COMMIT (\S*)", partial(MariaDBBranches.xa_finish, commit=True)),
        (r"XA ROLLBACK (\S*)", partial(MariaDBBranches.xa_finish, commit=False)),
        (r"XA RECOVER", _recover),
        (r"START TRANSACTION", MariaDBBranches.start_transaction),
        (r"SAVEPOINT nodoubt_transaction", MariaDBBranches.set_savepoint),
        (r"RELEASE SAVEPOINT nodoubt_transaction", MariaDBBranches.release_savepoint),
        (r"COMMIT", MariaDBBranches.commit),
        (r"ROLLBACK", MariaDBBranches.roll_back),
        (r"INSERT INTO \S*nodoubt_branch VALUES \('',CONNECTION_ID\(\) MOD 2147483648\)", _pass),
        (r"DELETE FROM \S*nodoubt_branch WHERE gid='' AND branch=CONNECTION_ID\(\) MOD 2147483648", _pass_on),
        (r"INSERT INTO \S*nodoubt_branch VALUES \('(.*)',(\d+)\)", _evidence),
        (
            r"INSERT INTO \S*nodoubt_decision \(gid, .* VALUES \('(.*)','committed','(.*)',([01]),IFNULL\(.*\)\)",
            _decide,
        ),
        (r"INSERT INTO \S*nodoubt_decision .* VALUES (.*) ON DUPLICATE KEY UPDATE .*", _probe),
        (r"UPDATE \S*nodoubt_decision SET probes = .* IN \((.*)\)", partial(_touch, complete=False)),
        (r"UPDATE \S*nodoubt_decision SET decided_at = .* IN \((.*)\)", partial(_touch, complete=True)),
        (r"UPDATE list SET items = CONCAT\(items, %s\) WHERE id = %s", _append),
        (r"UPDATE account SET balance = balance \+ %s WHERE id = %s", _move),
        (r"DELETE FROM \S*nodoubt_branch WHERE gid IN (.*)", _drop_evidence),
        (r"DELETE FROM .* gid < '(.*)' AND .* 0\.000001 - (\S+) .* LIMIT (\d+)", _purge),
        (r"SELECT items FROM list WHERE id = %s", _look),
        (r"SELECT gid, decision, .* WHERE gid IN \((.*)\)", _decisions),
        (r"SELECT gid, decision, .* WHERE complete = 0 .* LIMIT (\d+)", _unfinished),
        (r"SELECT gid, branch FROM \S*nodoubt_branch WHERE gid IN \((.*)\)", _applied),
        (r"SELECT 1 FROM \S*nodoubt_branch WHERE gid='(.*)' AND branch=(\d+) FOR UPDATE NOWAIT", _held),
        (r"SELECT 1", lambda *_: ("", [(1,)])),
        (r"SELECT EXISTS \(SELECT 1 FROM \S*nodoubt_branch WHERE gid = '(.*)'\)", _signed),
        (r"INSERT IGNORE INTO \S*nodoubt_node SELECT \* FROM \S*nodoubt_node", _write_nothing),
        (r"SELECT gid FROM \S*nodoubt_branch WHERE gid < '(.*)' ORDER BY gid DESC LIMIT (\d+)", _old_evidence),
        (r"SELECT GET_LOCK\('(.*)', 0\), @@log_bin, (?:1|EXISTS \(.* WHERE gid = '(.*)'\))", _set_up),
        (r"DO GET_LOCK\('(.*)', 0\)", _get_lock),
        (r"SELECT GET_LOCK\('(nodoubt:gate:.*)',(.*)\)", _get_gate),
        (r"LOCK TABLES \S*nodoubt_node WRITE", _lock_tables),
        (r"UNLOCK TABLES", _unlock_tables),
        (r"DO RELEASE_LOCK\('nodoubt:gate:.*'\)", _nothing),
        (r"SELECT 1 FROM \S*nodoubt_branch WHERE gid = ''", _first_look),
        (r"SELECT IS_USED_LOCK\('(.*)'\)", _used_lock),
        (r"SELECT SLEEP\((.*)\)", _sleep),
        (r"SELECT DATABASE\(\), .*", _learn),
        (r"SELECT UNIX_TIMESTAMP\(\) \+ MICROSECOND\(NOW\(6\)\) \* 0\.000001", _clock),
        (r"SHOW VARIABLES WHERE variable_name IN \(.*\)", _variables),
        (r"SELECT name, domain, id, schema_version, (0|EXISTS \(.*\)) FROM \S*nodoubt_node", _identity),
        (r"SET SESSION innodb_lock_wait_timeout = (\d+)", _lock_wait),
        (r"SET SESSION TRANSACTION READ (ONLY|WRITE)", _read_only),
        (r"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", _nothing),
        (r"SET TRANSACTION ISOLATION LEVEL (READ COMMITTED|REPEATABLE READ|SERIALIZABLE)", _next_level),
        (r"SET (@nodoubt_\w+=@@.*)", _keep),
        (r"SET @nodoubt_reason = IF\(.* < (\S+), '', NULL\)", _set_reason),
        (r"SET SESSION (\w+=.*)", _set),
        (r"KILL (\d+)", _kill),
    )
