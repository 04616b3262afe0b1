"""A PostgreSQL-like server: the texts of the dialect about tables, sessions and settings, and how the real one answers them."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import Any

from nodoubt.sim.postgresql_transactions import PostgreSQLTransactions
from nodoubt.sim.server import DONE, Answer, Backend, Steps, quoted, texts
from nodoubt.sim.store import SqlError

DECISION, BRANCH = "decision", "branch"
SET: Answer = ("SET", ())
#: A row of the table of decisions: decision, participants, complete, decided_at, reason.
Decision = tuple[str, str, bool, float, str]


class PostgreSQLServer(PostgreSQLTransactions):
    """See the module."""

    decision_columns = 5

    # Our tables

    def _evidence(self, b: Backend, gid: str, branch: str) -> Steps:
        key = (gid, int(branch))
        txn = yield from self.write(b, BRANCH, key)
        if self.store.read(txn, BRANCH, key) is not None:
            self.abort(b)
            raise SqlError("23505", "duplicate key value", "nodoubt.branch_pkey")
        txn.writes[BRANCH, key] = True
        return "INSERT 0 1", ()

    def _decide(self, b: Backend, gid: str, participants: str, complete: str) -> Steps:
        txn = yield from self.write(b, DECISION, gid)
        if self.store.read(txn, DECISION, gid) is not None:
            self.abort(b)
            raise SqlError("23505", "duplicate key value", "nodoubt.decision_pkey")
        txn.writes[DECISION, gid] = ("committed", participants, complete == "true", self.clock_s(), "")
        return "INSERT 0 1", ()

    def _before_probe(self, b: Backend, milliseconds: str) -> Answer:
        self._for_good(b, milliseconds, setting="lock_timeout_s")
        return "", [(self.clock_s(), milliseconds, "on", "read committed")]

    def _probe(self, b: Backend, values: str, until_s: str) -> Steps:
        fresh = []
        for gid in quoted(values):
            txn = b.txn
            if self.clock_s() >= float(until_s) or self.store.read(txn, DECISION, gid) is not None:
                continue
            txn = yield from self.write(b, DECISION, gid)
            if self.store.read(txn, DECISION, gid) is None:
                txn.writes[DECISION, gid] = ("aborted", "{}", False, self.clock_s(), "")
                fresh.append((gid,))
        yield from self.implicit(b, "")
        return f"INSERT 0 {len(fresh)}", fresh

    def _decisions(self, b: Backend, gids: str) -> Answer:
        rows = self.store.rows(b.txn, DECISION)
        return "", [self._row(gid, rows[gid]) for gid in quoted(gids) if gid in rows]

    def _unfinished(self, b: Backend, limit: str) -> Answer:
        found = [
            (gid, row) for gid, row in self.store.rows(b.txn, DECISION).items() if not row[2] and row[0] != "aborted"
        ]
        return "", [self._row(gid, row) for gid, row in sorted(found)[: int(limit)]]

    def _row(self, gid: str, row: Decision) -> tuple[Any, ...]:
        return gid, row[0], row[1], row[2], self.clock_s() - row[3], row[4]

    def _there(self, b: Backend, table: str, keys: list[Any]) -> Generator[Any, Any, list[Any]]:
        """Lock rows to change them, and return which are there. One that nobody has committed is not seen, nor waited for."""
        found = []
        for key in keys:
            if self.store.read(b.txn, table, key) is None:
                continue
            txn = yield from self.write(b, table, key)
            if self.store.read(txn, table, key) is not None:
                found.append(key)
        return found

    def _complete(self, b: Backend, gids: str) -> Steps:
        rows = self.store.rows(b.txn, DECISION)
        found = yield from self._there(b, DECISION, [gid for gid in quoted(gids) if gid in rows and not rows[gid][2]])
        for gid in found:
            if not (row := self.store.read(b.txn, DECISION, gid))[2]:
                self.completing(gid)
                b.txn.writes[DECISION, gid] = (*row[:2], True, self.clock_s(), row[4])  # type: ignore[union-attr]
        return f"UPDATE {len(found)}", ()

    def _applied(self, b: Backend, gids: str) -> Answer:
        wanted = set(quoted(gids))
        return "", [key for key in self.store.rows(b.txn, BRANCH) if key[0] in wanted]

    def _drop_evidence(self, b: Backend, gids: str) -> Steps:
        wanted = set(quoted(gids))
        keys = [key for key in self.store.rows(b.txn, BRANCH) if key[0] in wanted]
        return (yield from self._delete(b, BRANCH, keys))

    def _old_evidence(self, b: Backend, before: str, limit: str) -> Answer:
        gids = sorted((gid for gid, _ in self.store.rows(b.txn, BRANCH) if gid < before), reverse=True)
        return "", [(gid,) for gid in gids[: int(limit)]]

    def _purge(self, b: Backend, before: str, retention_s: str, limit: str) -> Steps:
        oldest = self.clock_s() - float(retention_s)
        rows = sorted(self.store.rows(b.txn, DECISION).items())
        gids = [gid for gid, row in rows if gid < before and (row[2] or row[0] == "aborted") and row[3] < oldest]
        if gids:
            self.observer.hit("met", "postgresql: decisions purged")
        return (yield from self._delete(b, DECISION, gids[: int(limit)]))

    def _delete(self, b: Backend, table: str, keys: list[Any]) -> Steps:
        found = yield from self._there(b, table, keys)
        for key in found:
            b.txn.writes[table, key] = None  # type: ignore[union-attr]
        return (yield from self.implicit(b, f"DELETE {len(found)}"))

    def _identity(self, b: Backend) -> Answer:
        return "", list(self.store.tables["node"].values())

    def _known(self, b: Backend, database: str) -> Answer:
        known = sum(row[2] == database for row in self.store.tables["node"].values())
        return f"SELECT {known}", ()

    # Sessions and settings

    def _for_now(self, b: Backend, milliseconds: str, *, setting: str) -> Answer:
        """Set for the open transaction."""
        b.settings.setdefault("outside", {}).setdefault(setting, b.settings.get(setting))
        return self._for_good(b, milliseconds, setting=setting)

    def _for_good(self, b: Backend, milliseconds: str, *, setting: str) -> Answer:
        b.settings[setting] = int(milliseconds) / 1000
        return SET

    def _nothing(self, b: Backend, *groups: str) -> Answer:
        return DONE

    def _set(self, b: Backend) -> Answer:
        return SET

    def _own_session(self, b: Backend) -> Answer:
        return "", [(b.number, f"at {b.number}")]

    def _terminate(self, b: Backend, pid: str, started: str) -> Steps:
        other = self.backends.get(int(pid))
        if other is not None and other is not b:
            self.observer.hit("met", "postgresql: session terminated")
            other.terminate()
            for _ in range(20):
                if not other.alive:
                    break
                yield 0.1
        return "", [(True,)]

    def _is_alive(self, b: Backend, pid: str, started: str) -> Answer:
        return "", [(1,)] if int(pid) in self.backends else []

    def _listed(self, b: Backend) -> Answer:
        return "", [(name, self.clock_s() - branch.at_s) for name, branch in self.store.prepared.items()]

    def _server(self, b: Backend) -> Answer:
        row = (150018, "15.18", 64, len(self.store.prepared), "on", "on", False, "sim", "sim", True, True, True)
        return "", [row]

    # The workload

    def _look(self, b: Backend, key: Any) -> Answer:
        assert b.txn is not None
        self.first_query(b)
        return "", [(self.store.seen(b.txn, "list", key),)]

    def _append(self, b: Backend, tag: Any, key: Any) -> Steps:
        txn = yield from self.change(b, "list", key)
        txn.writes["list", key] = (*self.store.read(txn, "list", key), tag)
        return "UPDATE 1", ()

    def _move(self, b: Backend, amount: Any, key: Any) -> Steps:
        txn = yield from self.change(b, "account", key)
        balance = self.store.read(txn, "account", key) + amount
        if balance < 0:
            self.abort(b)
            raise SqlError("23514", 'new row for relation "account" violates check constraint', "public.balance")
        txn.writes["account", key] = balance
        return "UPDATE 1", ()

    texts = texts(
        (r"BEGIN(.*)", PostgreSQLTransactions.begin),
        (r"COMMIT", PostgreSQLTransactions.commit),
        (r"ROLLBACK", PostgreSQLTransactions.roll_back),
        (r"ROLLBACK AND CHAIN", PostgreSQLTransactions.begin_again),
        (r"EXECUTE nodoubt_glance", PostgreSQLTransactions.glance),
        (r"EXECUTE nodoubt_still", PostgreSQLTransactions.still),
        (r"EXECUTE nodoubt_evidence\('(.*)',(\d+)\)", _evidence),
        (r"EXECUTE nodoubt_decide\('(.*)','(.*)',(true|false)\)", _decide),
        (r"LOCK TABLE nodoubt.node IN (SHARE|ROW EXCLUSIVE) MODE", PostgreSQLTransactions.lock_node),
        (r"PREPARE TRANSACTION '(.*)'", PostgreSQLTransactions.prepare),
        (r"PREPARE nodoubt_(\w+)\b.*", _nothing),
        (r"COMMIT PREPARED '(.*)'", partial(PostgreSQLTransactions.finish, commit=True)),
        (r"ROLLBACK PREPARED '(.*)'", partial(PostgreSQLTransactions.finish, commit=False)),
        (r"SET LOCAL synchronous_commit\s*=\s*on", _set),
        (r"SET CONSTRAINTS ALL IMMEDIATE", _set),
        (r"SET (?:LOCAL )?ROLE NONE", _set),
        (r"RESET ROLE", lambda *_: ("RESET", ())),
        (r"SET LOCAL lock_timeout = (\d+)", partial(_for_now, setting="lock_timeout_s")),
        (r"SET LOCAL idle_in_transaction_session_timeout = (\d+)", partial(_for_now, setting="idle_limit_s")),
        (r"SET idle_in_transaction_session_timeout = (\d+)", partial(_for_good, setting="idle_limit_s")),
        (r"SELECT 1", PostgreSQLTransactions.first_query),
        (r"SELECT pg_advisory_xact_lock(_shared)?\((\d+)\)", PostgreSQLTransactions.lock_key),
        (r"SELECT gid, extract\(.* FROM pg_prepared_xacts WHERE .*", _listed),
        (r"SELECT gid, decision, .* WHERE gid IN \((.*)\)", _decisions),
        (r"SELECT gid, decision, .* WHERE NOT complete .* LIMIT (\d+)", _unfinished),
        (r"SELECT gid, branch FROM nodoubt.branch WHERE gid IN \((.*)\)", _applied),
        (r"SELECT gid FROM nodoubt.branch WHERE gid < '(.*)' ORDER BY gid DESC LIMIT (\d+)", _old_evidence),
        (r"SELECT pid, .* WHERE pid = pg_backend_pid\(\)", _own_session),
        (r"SELECT pg_terminate_backend\(.* pid = (\d+) AND .* = '(.*)'", _terminate),
        (r"SELECT 1 FROM pg_stat_activity WHERE pid = (\d+) AND .* = '(.*)'", _is_alive),
        (r"SELECT name, domain, id, schema_version FROM nodoubt.node", _identity),
        (r"SELECT FROM nodoubt.node WHERE id = '(.*)'", _known),
        (r"SELECT current_setting\(.* FROM pg_roles .*", _server),
        (r"SELECT items FROM list WHERE id = \$1", _look),
        (r"SELECT extract\(.*, set_config\('lock_timeout', '(\d+)', false\), .*", _before_probe),
        (r"INSERT INTO nodoubt.decision .* \(VALUES (.*)\) AS .* < (\S+) ON CONFLICT DO NOTHING RETURNING gid", _probe),
        (r"UPDATE nodoubt.decision SET complete = true, .* WHERE gid IN \((.*)\) AND NOT complete", _complete),
        (r"UPDATE list SET items = items \|\| \$1 WHERE id = \$2", _append),
        (r"UPDATE account SET balance = balance \+ \$1 WHERE id = \$2", _move),
        (r"DELETE FROM nodoubt.branch WHERE gid IN \((.*)\)", _drop_evidence),
        (r"DELETE FROM nodoubt.decision .* gid < '(.*)' AND .*secs => (.*)\) ORDER .* LIMIT (\d+)\)", _purge),
    )
