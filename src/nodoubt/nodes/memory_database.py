"""A database in memory: what a server does, with faults on demand. Nothing in here knows nodes, branches or the protocol.

A :class:`MemoryDatabase` plays the server and outlives the "processes" that use it. Its tables are dicts, its rows are locked
by whoever writes them, and prepared work survives a crash. A transaction may work on a *snapshot*, a copy of what is committed
when it begins, and then writes no row that was changed since; or lock what it reads, too. Everything reaches the database as a
*call* of one session: a named packet of steps, of which the first error stops the rest. ``faults`` is asked about each call and
answers with its :class:`Fate`; that one seam is where tests and simulations make trouble.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nodoubt.nodes.memory_calls import (
    CHANGED,
    DUPLICATE,
    ILLEGAL,
    INJECTED,
    LATE,
    LOCKED,
    MISSING,
    READ_ONLY,
    Call,
    Fate,
    Faults,
    Lost,
    Pending,
    Refused,
)
from nodoubt.nodes.memory_locks import Locks, MustWait, Place
from nodoubt.nodes.memory_snapshot import History, Snapshot

_GONE = object()


@dataclass(slots=True, kw_only=True)
class Work:
    """What a transaction wrote and did not commit yet; ``since_s`` is when it was prepared, by the database's clock.

    ``lock_wait_s`` is how long its calls wait for locks, or 0 where their sender says it; ``locks_reads`` makes it serializable.
    """

    writes: dict[Place, Any] = field(default_factory=dict)
    savepoints: list[tuple[str, dict[Place, Any]]] = field(default_factory=list)
    read_only: bool = False
    since_s: float = 0.0
    snapshot: Snapshot | None = None
    locks_reads: bool = False
    lock_wait_s: float = 0.0


class MemoryDatabase:
    """See the module's text. ``clock`` gives seconds; ages of decisions and prepared work are told by it."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.clock = clock
        #: Committed rows; tests may look at them and break them.
        self.tables: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        self.prepared: dict[str, Work] = {}
        self.faults: Faults = lambda call: Fate.FINE
        self.running = True
        self._open: dict[int, Work | None] = {}
        self._held: list[Pending] = []
        self._busy: set[int] = set()
        self._hung_up: set[int] = set()
        #: The last snapshots of sessions, if nobody was at work then.
        self._glances: dict[int, Snapshot] = {}
        self._locks = Locks(clock, self.end)
        self._history = History()
        self._sessions = 0
        self._mutex = threading.RLock()

    # What happens to the database as a whole.

    def stop(self) -> None:
        """Crash: every session ends, what was not prepared is gone, calls on their way are dropped."""
        with self._mutex:
            self.running = False
            for session in list(self._open):
                self.end(session)
            self._held.clear()

    def start(self) -> None:
        """Come back with committed rows and prepared work."""
        self.running = True

    def deliver(self) -> None:
        """Let every held call arrive."""
        with self._mutex:
            held, self._held = self._held, []
            for pending in held:
                self.carry_out(pending)

    # Sessions.

    def connect(self) -> int:
        """Begin a session and return its number."""
        with self._mutex:
            if not self.running:
                raise Lost("the database is not running")
            self._sessions += 1
            self._open[self._sessions] = None
            return self._sessions

    def hang_up(self, session: int) -> None:
        """The client closes its end. What it sent still arrives; the database notices afterwards."""
        with self._mutex:
            self._hung_up.add(session)
            if session not in self._busy:
                self.end(session)

    def end(self, session: int) -> None:
        """End a session from the database's side: its open work is undone, what it sent will not be carried out."""
        with self._mutex:
            if session in self._open:
                self._undo(session)
                del self._open[session]

    def is_open(self, session: int) -> bool:
        """Whether the session exists on the database's side."""
        return session in self._open

    def lock_wait_s(self, session: int) -> float:
        """How long calls of its transaction wait for locks; 0 where it did not say."""
        work = self._open.get(session)
        return work.lock_wait_s if work else 0.0

    # Calls.

    def send(self, call: Call) -> Pending:
        """Send a call off, to the fate that ``faults`` has for it. Raises Lost."""
        pending = Pending(call=call)
        with self._mutex:
            self._busy.add(call.session)
            match self.faults(call):
                case Fate.FINE:
                    self.carry_out(pending)
                case Fate.REFUSED:
                    self._answer(pending, Refused(INJECTED, f"refused on purpose: {call.name}"))
                case Fate.LOST:
                    self.end(call.session)
                case Fate.UNHEARD:
                    self.carry_out(pending)
                    self.end(call.session)
                case Fate.HELD:
                    self._held.append(pending)
                case Fate.CRASH:
                    self.stop()
                case Fate.CRASH_AFTER:
                    self.carry_out(pending)
                    self.stop()
        return pending

    def carry_out(self, pending: Pending) -> None:
        """Do what a call asks, if its session still exists. A call that must wait for a lock is left there, to be tried again."""
        call = pending.call
        with self._mutex:
            if call.session not in self._open or pending.is_answered:
                return
            try:
                for verb, *arguments in call.steps[len(pending.results) :]:
                    pending.results.append(getattr(self, f"_do_{verb}")(call.session, *arguments))
            except MustWait:
                if call.session in self._hung_up:
                    self.end(call.session)
            except Refused as refused:
                self._answer(pending, refused)
            else:
                self._answer(pending, None)

    def give_up(self, pending: Pending) -> None:
        """The call has waited for a lock for as long as it may."""
        with self._mutex:
            if not pending.is_answered:
                self._answer(pending, Refused(LOCKED, f"somebody else holds a row: {pending.call.name}"))

    def is_held(self, pending: Pending) -> bool:
        """Whether the call is still on its way."""
        return pending in self._held

    def _answer(self, pending: Pending, refused: Refused | None) -> None:
        pending.refused = refused
        pending.is_answered = True
        session = pending.call.session
        self._busy.discard(session)
        self._locks.heard(session)
        if session in self._hung_up:
            self.end(session)

    # The verbs of one transaction.

    def _do_begin(self, session: int, read_only: bool = False, lock_wait_s: float = 0.0) -> str:
        if self._open[session] is not None:
            raise Refused(ILLEGAL, "a transaction is open already")
        self._open[session] = Work(read_only=read_only, lock_wait_s=lock_wait_s)
        return "BEGIN"

    def _do_snapshot(self, session: int) -> None:
        """Work on what is committed now."""
        self._work(session).snapshot = Snapshot(self.tables, self._history)

    def _do_share(self, session: int, other: int) -> None:
        """Work on the snapshot of another session."""
        shared = self._open.get(other)
        if shared is None or shared.snapshot is None:
            raise Refused(MISSING, f"session {other} has no snapshot")
        self._work(session).snapshot = shared.snapshot

    def _do_glance(self, session: int) -> str:
        """What happened when the snapshot was taken, just before; a name of :class:`nodoubt.nodes.contract.Glance`."""
        snapshot, before = self._work(session).snapshot, self._glances.pop(session, None)
        if snapshot is None or self.prepared or any(work and work.writes for work in self._open.values()):
            return "BUSY"
        self._glances[session] = snapshot
        return "UNMOVED" if before is not None and before.is_last else "QUIET"

    def _do_still(self, session: int) -> bool:
        glanced = self._glances.get(session)
        return glanced is not None and glanced.is_last

    def _do_export(self, session: int) -> str:
        if self._work(session).snapshot is None:
            raise Refused(ILLEGAL, "the transaction has no snapshot")
        return str(session)

    def _do_lock_reads(self, session: int) -> None:
        self._work(session).locks_reads = True

    def _do_freeze(self, session: int, table: str, idle_s_max: float) -> None:
        """Keep all others from writing a table; who idles for longer is ended by whoever waits for him."""
        self._locks.freeze(session, table, idle_s_max)

    def _do_get(self, session: int, table: str, key: str) -> Any:
        work = self._work(session)
        if work.locks_reads:
            self._locks.read(session, (table, key))
        return self._row(work, self.tables if work.snapshot is None else work.snapshot.tables, (table, key))

    def _do_put(self, session: int, table: str, key: str, row: Any) -> None:
        self._write(session, (table, key), row)

    def _do_delete(self, session: int, table: str, key: str) -> None:
        self._write(session, (table, key), _GONE)

    def _do_insert(self, session: int, table: str, key: str, row: Any) -> None:
        # The lock first: whether the key exists is known only after whoever holds it has ended.
        self._locks.write(session, (table, key))
        if self._row(self._work(session), self.tables, (table, key)) is not None:
            raise Refused(DUPLICATE, f"{table} has a row {key!r}")
        self._write(session, (table, key), row)

    def _do_insert_missing(self, session: int, table: str, key: str, row: Any) -> list[tuple[str, bool]]:
        """Insert unless the key exists; with the key, whether it did not."""
        try:
            self._do_insert(session, table, key, row)
        except Refused as refused:
            if refused.sqlstate != DUPLICATE:
                raise
            return [(key, False)]
        return [(key, True)]

    def _do_savepoint(self, session: int, name: str) -> None:
        work = self._work(session)
        work.savepoints.append((name, dict(work.writes)))

    def _do_restore(self, session: int, name: str) -> None:
        work = self._work(session)
        index = self._savepoint(work, name)
        work.writes = dict(work.savepoints[index][1])
        del work.savepoints[index + 1 :]

    def _do_drop(self, session: int, name: str) -> None:
        work = self._work(session)
        del work.savepoints[self._savepoint(work, name) :]

    def _do_commit(self, session: int) -> str:
        self._apply(self._work(session))
        self._locks.free(session)
        self._open[session] = None
        return "COMMIT"

    def _do_undo(self, session: int) -> str:
        self._undo(session)
        return "ROLLBACK"

    def _do_prepare(self, session: int, name: str) -> str:
        work = self._work(session)
        if name in self.prepared:
            self._undo(session)
            raise Refused(DUPLICATE, f"{name} is prepared already")
        work.since_s = self.clock()
        self.prepared[name] = work
        self._history.moves += 1
        self._locks.hand_on(session, name)
        self._open[session] = None
        return "PREPARE"

    # The verbs of recovery.

    def _do_finish(self, session: int, name: str, commit: bool) -> str:
        work = self.prepared.pop(name, None)
        if work is None:
            raise Refused(MISSING, f"{name} is not prepared")
        if commit:
            self._apply(work)
        self._locks.free(name)
        return "FINISH"

    def _do_list(self, session: int) -> list[tuple[str, float]]:
        now_s = self.clock()
        return [(name, now_s - work.since_s) for name, work in self.prepared.items()]

    def _do_rows(self, session: int, table: str) -> list[tuple[str, Any]]:
        return list(self.tables[table].items())

    def _do_now(self, session: int) -> list[tuple[float]]:
        return [(self.clock(),)]

    def _do_require_before(self, session: int, until_s: float) -> None:
        if self.clock() > until_s:
            raise Refused(LATE, "it comes too late")

    def _do_update(self, session: int, table: str, change: Callable[[dict[str, Any]], Any]) -> Any:
        return change(self.tables[table])

    def _do_end(self, session: int, other: int) -> bool:
        self.end(other)
        return not self.is_open(other)

    # What the verbs are made of.

    def _work(self, session: int) -> Work:
        work = self._open[session]
        if work is None:
            raise Refused(ILLEGAL, "no transaction is open")
        return work

    def _row(self, work: Work, tables: Mapping[str, dict[str, Any]], place: Place) -> Any:
        row = work.writes.get(place, tables.get(place[0], {}).get(place[1]))
        return None if row is _GONE else row

    def _write(self, session: int, place: Place, row: Any) -> None:
        work = self._work(session)
        if work.read_only:
            raise Refused(READ_ONLY, "the transaction is read-only")
        self._locks.write(session, place)
        if work.snapshot is not None and not work.snapshot.shows(place):
            raise Refused(CHANGED, f"{place} was changed after the snapshot was taken")
        work.writes[place] = row

    def _savepoint(self, work: Work, name: str) -> int:
        for index in reversed(range(len(work.savepoints))):
            if work.savepoints[index][0] == name:
                return index
        raise Refused(MISSING, f"no savepoint {name!r}")

    def _apply(self, work: Work) -> None:
        self._history.committed(work.writes)
        for (table, key), row in work.writes.items():
            if row is _GONE:
                self.tables[table].pop(key, None)
            else:
                self.tables[table][key] = row

    def _undo(self, session: int) -> None:
        self._open[session] = None
        self._locks.free(session)
