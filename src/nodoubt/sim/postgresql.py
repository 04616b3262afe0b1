"""A PostgreSQL-like server: the texts of the dialect, and how the real one answers them.

A failed transaction answers COMMIT and PREPARE TRANSACTION with the tag ROLLBACK; a prepared branch is free of its session,
holds its locks and survives restarts; a commit is forced before it is seen; 42704 while a PREPARE is still running; a forced
write that fails takes the whole server down.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from nodoubt.protocol.ids import BranchId
from nodoubt.sim.locks import EXCLUSIVE, Deadlock, Place, Txn
from nodoubt.sim.server import DONE, Answer, Backend, Server, Steps, quoted, texts
from nodoubt.sim.store import Prepared, Record, SqlError

DECISION, BRANCH, KEY = "decision", "branch", "key"
#: The lock of the table of one row, which every decision passes.
GATE: Place = ("node", "")
SET: Answer = ("SET", ())
#: A row of the table of decisions: decision, participants, complete, decided_at, reason.
Decision = tuple[str, str, bool, float, str]


class PostgreSQLServer(Server):
    """See the module."""

    kind = "postgresql"
    decision_columns = 5

    def spell(self, branch: BranchId) -> str:
        return branch.text()

    def refuse(self, call: Callable[..., Any]) -> None:
        if call not in _ENDERS:
            raise SqlError("25P02", "current transaction is aborted")

    def _write(self, b: Backend, table: str, key: Any) -> Generator[Any, Any, Txn]:
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

    def _change(self, b: Backend, table: str, key: Any) -> Generator[Any, Any, Txn]:
        """Lock a row to change it. Who has a snapshot changes nothing that others changed since: the first committer wins."""
        self._first_query(b)
        self._expect_unchanged(b, (table, key))
        txn = yield from self._write(b, table, key)
        self._expect_unchanged(b, (table, key))
        return txn

    def _expect_unchanged(self, b: Backend, place: Place) -> None:
        if b.txn is not None and b.txn.view and place in b.txn.view:
            self.observer.hit("met", "postgresql: the first committer won")
            raise self._failed(b, SqlError("40001", "could not serialize access due to concurrent update"))

    def _failed(self, b: Backend, error: SqlError) -> SqlError:
        self._abort(b)
        return error

    def _abort(self, b: Backend) -> None:
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
        if "outside" in settings:
            settings.update(settings.pop("outside"))

    def _implicit(self, b: Backend, tag: str) -> Steps:
        """Commit a statement that stands outside any transaction block."""
        if b.settings.get("implicit"):
            yield from self._commit(b)
        return tag, ()

    # Transactions

    def _begin(self, b: Backend, rest: str) -> Answer:
        if b.txn is not None:
            self.observer.violation(
                f"{self.name}: BEGIN on a session that is in a transaction: a doubtful one was pooled"
            )
        b.txn = Txn(read_only="READ ONLY" in rest, level="snapshot" if "REPEATABLE READ" in rest else "")
        return "BEGIN", ()

    def _commit(self, b: Backend) -> Steps:
        txn = b.txn
        if txn is None or b.failed:
            self._close(b)
            return "COMMIT" if txn is None else "ROLLBACK", ()
        if txn.writes:
            b.firm = True
            yield from self.force(b, self.store.append(Record("commit", writes=txn.writes)))
        self.store.end(txn, apply=True)
        self._close(b)
        return "COMMIT", ()

    def _rollback(self, b: Backend) -> Answer:
        if b.txn is not None and not b.txn.over:
            self.store.end(b.txn, apply=False)
        self._close(b)
        return "ROLLBACK", ()

    def _prepare(self, b: Backend, name: str) -> Steps:
        txn = b.txn
        if txn is None or b.failed:
            self._close(b)
            self.observer.hit("met", "postgresql: PREPARE answered ROLLBACK")
            return "ROLLBACK", ()
        if name in self.store.prepared:
            self._abort(b)
            self._close(b)
            raise SqlError("42710", f'transaction identifier "{name}" is already in use')
        b.firm = True
        at_s = self.clock_s()
        record = Record("prepare", name, txn.writes, self.store.kept(txn, KEY), at_s=at_s)
        yield from self.force(b, self.store.append(record))
        self.store.prepared[name] = Prepared(txn, at_s)
        self._close(b)
        return "PREPARE TRANSACTION", ()

    def _finish(self, b: Backend, name: str, *, commit: bool) -> Steps:
        what = "COMMIT" if commit else "ROLLBACK"
        if b.txn is not None:
            self._abort(b)
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

    # Our tables

    def _evidence(self, b: Backend, gid: str, branch: str) -> Steps:
        key = (gid, int(branch))
        txn = yield from self._write(b, BRANCH, key)
        if self.store.read(txn, BRANCH, key) is not None:
            self._abort(b)
            raise SqlError("23505", "duplicate key value", "nodoubt.branch_pkey")
        txn.writes[BRANCH, key] = True
        return "INSERT 0 1", ()

    def _decide(self, b: Backend, gid: str, participants: str, complete: str) -> Steps:
        txn = yield from self._write(b, DECISION, gid)
        if self.store.read(txn, DECISION, gid) is not None:
            self._abort(b)
            raise SqlError("23505", "duplicate key value", "nodoubt.decision_pkey")
        txn.writes[DECISION, gid] = ("committed", participants, complete == "true", self.clock_s(), "")
        return "INSERT 0 1", ()

    def _probe(self, b: Backend, values: str) -> Steps:
        fresh = []
        for gid in quoted(values)[::2]:
            txn = b.txn
            if self.store.read(txn, DECISION, gid) is not None:
                continue
            txn = yield from self._write(b, DECISION, gid)
            if self.store.read(txn, DECISION, gid) is None:
                txn.writes[DECISION, gid] = ("aborted", "{}", False, self.clock_s(), "")
                fresh.append((gid,))
        yield from self._implicit(b, "")
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
            txn = yield from self._write(b, table, key)
            if self.store.read(txn, table, key) is not None:
                found.append(key)
        return found

    def _complete(self, b: Backend, gids: str) -> Steps:
        found = yield from self._there(b, DECISION, quoted(gids))
        for gid in found:
            self.completing(gid)
            row = self.store.read(b.txn, DECISION, gid)
            b.txn.writes[DECISION, gid] = (*row[:2], True, *row[3:])  # type: ignore[union-attr]
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
        return (yield from self._implicit(b, f"DELETE {len(found)}"))

    def _identity(self, b: Backend) -> Answer:
        return "", list(self.store.tables["node"].values())

    # Snapshots, gates and keys

    def _first_query(self, b: Backend) -> Answer:
        if b.txn is not None and b.txn.level:
            self.store.look(b.txn)
        return "SELECT 1", [(1,)]

    def _lock_node(self, b: Backend, mode: str) -> Steps:
        """Of the gate: those who decide share it, and so do those who close it."""
        began_s = self.schedule.now
        yield from self._take(b, GATE, mode)
        is_closing = mode == "SHARE"
        if self.schedule.now > began_s:
            self.observer.hit("gate", f"postgresql: {'an opener' if is_closing else 'a decision'} was held off")
        if is_closing:
            self.closed_gate(b)
        return "LOCK TABLE", ()

    def _lock_key(self, b: Backend, shared: str | None, number: str) -> Steps:
        yield from self._take(b, (KEY, number), shared or EXCLUSIVE)
        return "SELECT 1", [("",)]

    def _for_now(self, b: Backend, milliseconds: str, *, setting: str) -> Answer:
        """Set for the open transaction."""
        b.settings.setdefault("outside", {}).setdefault(setting, b.settings.get(setting))
        return self._for_good(b, milliseconds, setting=setting)

    # Sessions and settings

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
        self._first_query(b)
        return "", [(self.store.seen(b.txn, "list", key),)]

    def _append(self, b: Backend, tag: Any, key: Any) -> Steps:
        txn = yield from self._change(b, "list", key)
        txn.writes["list", key] = (*self.store.read(txn, "list", key), tag)
        return "UPDATE 1", ()

    def _move(self, b: Backend, amount: Any, key: Any) -> Steps:
        txn = yield from self._change(b, "account", key)
        balance = self.store.read(txn, "account", key) + amount
        if balance < 0:
            self._abort(b)
            raise SqlError("23514", 'new row for relation "account" violates check constraint', "public.balance")
        txn.writes["account", key] = balance
        return "UPDATE 1", ()

    texts = texts(
        (r"BEGIN(.*)", _begin),
        (r"COMMIT", _commit),
        (r"ROLLBACK", _rollback),
        (r"EXECUTE nodoubt_evidence\('(.*)',(\d+)\)", _evidence),
        (r"EXECUTE nodoubt_decide\('(.*)','(.*)',(true|false)\)", _decide),
        (r"LOCK TABLE nodoubt.node IN (SHARE|ROW EXCLUSIVE) MODE", _lock_node),
        (r"PREPARE TRANSACTION '(.*)'", _prepare),
        (r"PREPARE nodoubt_(\w+)\(.*", _nothing),
        (r"COMMIT PREPARED '(.*)'", partial(_finish, commit=True)),
        (r"ROLLBACK PREPARED '(.*)'", partial(_finish, commit=False)),
        (r"SET LOCAL synchronous_commit\s*=\s*on", _set),
        (r"SET synchronous_commit = on", _set),
        (r"SET default_transaction_isolation = 'read committed'", _set),
        (r"SET LOCAL lock_timeout = (\d+)", partial(_for_now, setting="lock_timeout_s")),
        (r"SET LOCAL idle_in_transaction_session_timeout = (\d+)", partial(_for_now, setting="idle_limit_s")),
        (r"SET lock_timeout = (\d+)", partial(_for_good, setting="lock_timeout_s")),
        (r"SET idle_in_transaction_session_timeout = (\d+)", partial(_for_good, setting="idle_limit_s")),
        (r"SELECT 1", _first_query),
        (r"SELECT pg_advisory_xact_lock(_shared)?\((\d+)\)", _lock_key),
        (r"SELECT gid, extract\(.* FROM pg_prepared_xacts WHERE .*", _listed),
        (r"SELECT gid, decision, .* WHERE gid IN \((.*)\)", _decisions),
        (r"SELECT gid, decision, .* WHERE NOT complete .* LIMIT (\d+)", _unfinished),
        (r"SELECT gid, branch FROM nodoubt.branch WHERE gid IN \((.*)\)", _applied),
        (r"SELECT gid FROM nodoubt.branch WHERE gid < '(.*)' ORDER BY gid DESC LIMIT (\d+)", _old_evidence),
        (r"SELECT pid, .* WHERE pid = pg_backend_pid\(\)", _own_session),
        (r"SELECT pg_terminate_backend\(.* pid = (\d+) AND .* = '(.*)'", _terminate),
        (r"SELECT 1 FROM pg_stat_activity WHERE pid = (\d+) AND .* = '(.*)'", _is_alive),
        (r"SELECT name, domain, id, schema_version FROM nodoubt.node", _identity),
        (r"SELECT to_regclass\('nodoubt.node'\) IS NOT NULL", lambda *_: ("", [(True,)])),
        (r"SELECT current_setting\(.* FROM pg_roles .*", _server),
        (r"SELECT items FROM list WHERE id = \$1", _look),
        (r"INSERT INTO nodoubt.decision \(gid, decision\) VALUES (.*) ON CONFLICT DO NOTHING RETURNING gid", _probe),
        (r"UPDATE nodoubt.decision SET complete = true WHERE gid IN \((.*)\)", _complete),
        (r"UPDATE list SET items = items \|\| \$1 WHERE id = \$2", _append),
        (r"UPDATE account SET balance = balance \+ \$1 WHERE id = \$2", _move),
        (r"DELETE FROM nodoubt.branch WHERE gid IN \((.*)\)", _drop_evidence),
        (r"DELETE FROM nodoubt.decision .* gid < '(.*)' AND .*secs => (.*)\) ORDER .* LIMIT (\d+)\)", _purge),
    )


_ENDERS = frozenset({PostgreSQLServer._commit, PostgreSQLServer._rollback, PostgreSQLServer._prepare})
