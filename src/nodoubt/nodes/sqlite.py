"""A SQLite database file as a full participant: the node. ``sqlite:///relative`` or ``sqlite:////absolute``.

SQLite has no PREPARE; see ``sqlite_branch`` and ``nodoubt.journal`` for what stands in its place. What everything rests on:

- Whoever holds the write lock knows that no other writing branch is open. So under the lock a journal is either the branch of
  a process that died, or done with: its evidence stands in the database. Nobody removes a journal without the lock.
- The database is in WAL mode with ``synchronous=FULL``: a commit is on the disk when it is seen. One exception: the first
  connection after a crash may see a commit that was never forced. :meth:`SQLiteNode.open` forces the WAL file first.
- Evidence is deleted only after the journal's removal was forced; else it could come back and be applied twice.

Writers of other programs are welcome; they wait for the lock like ours. While a branch is in doubt they can change the rows
that it needs: then it cannot be applied as a whole, stays, and is reported.

The lock also gives every level of isolation: a branch that writes works on the one state there is, from its beginning to its
end, and one that only reads takes the lock where its reads must stay. And it is home's gate (``sqlite_gate``). So nobody
closes the gate of a node on which he himself has a branch that holds it.

Each branch has a connection of its own, made by ``apsw.Connection``: what a program registers in ``apsw.connection_hooks``
(functions, collations, its usual settings) is there, and there again when recovery applies a branch. Foreign keys are checked
as SQLite's default is, which is not, unless a hook or the node's option ``foreign_keys = true`` says so: the PRAGMA has no
effect inside a transaction. An apsw connection, and so an open manager, must not cross a fork.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from nodoubt.errors import ConfigError, NodeUnavailable, NodoubtError
from nodoubt.journal.files import Journal
from nodoubt.journal.record import JournalDamaged, Record
from nodoubt.nodes import sqlite_tables as tables
from nodoubt.nodes.apsw_driver import Session
from nodoubt.nodes.contract import (
    ATOMIC,
    Capabilities,
    DecisionRow,
    Ended,
    Finding,
    Isolation,
    Listing,
    PreparedBranch,
    Terms,
    always,
)
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.failures import StatementFailed, too_late
from nodoubt.nodes.identity import check_identity
from nodoubt.nodes.sqlite_branch import SQLiteBranch
from nodoubt.nodes.sqlite_gate import SQLiteGate
from nodoubt.nodes.sqlite_guard import SQLiteGuard
from nodoubt.nodes.sqlite_install import ddl, inspect, install
from nodoubt.nodes.sqlite_sessions import Locked, Sessions, damaged, try_lock
from nodoubt.nodes.world import World
from nodoubt.protocol.ids import BranchId, token
from nodoubt.protocol.verdicts import HomeSays

logger = logging.getLogger("nodoubt")
T = TypeVar("T")

#: How often a branch that waits for one in doubt looks again.
DOUBT_LOOK_S = 0.005
#: See :class:`nodoubt.nodes.sqlite_sessions.Sessions`.
OPTIONS = frozenset({"vfs", "foreign_keys"})


def database_path(url: str) -> Path:
    """The file that a URL names, symbolic links resolved. Raises ConfigError."""
    parts = urlsplit(url)
    path = unquote(parts.path).removeprefix("/")
    if parts.scheme != "sqlite" or parts.netloc or parts.query or parts.fragment or not path or path.startswith(":"):
        raise ConfigError(
            f"{url!r} does not name a database file", hint="write sqlite:///relative/path or sqlite:////absolute/path"
        )
    return Path(os.path.realpath(path))


class SQLiteNode:
    """See :class:`nodoubt.nodes.contract.Node`."""

    def __init__(self, name: str, domain: str, settings: NodeSettings, world: World) -> None:
        self.name = name
        self.kind = "sqlite"
        self.capabilities = Capabilities(home=True, detached=False, concurrent=False)
        self.home_refusal = ""
        self.domain = domain
        self.settings = settings
        self.world = world
        self.path = database_path(settings.url)
        if unknown := settings.options.keys() - OPTIONS:
            raise ConfigError(
                f"node {name!r}: SQLite has no option {min(unknown)!r}", hint=f"known are: {', '.join(sorted(OPTIONS))}"
            )
        self.journal = Journal(self.path)
        self.keys: tables.Keys | None = None
        #: See :class:`nodoubt.nodes.contract.Hurried`.
        self.hurry: Callable[[BranchId, str], bool] = lambda doubt, gid: True
        self.sessions = Sessions(name, self.path, world, settings.options)
        self._orphan = ""

    async def open(self) -> None:
        await self.world.aside(self._open)

    async def check_durable(self) -> None:
        """Each connection forces its own commits, whatever others do."""

    def _open(self) -> None:
        with self.sessions.explained("be opened"):
            if not self.journal.has_database():
                raise ConfigError(f"node {self.name!r}: there is no file {self.path}", hint="run `nodoubt init`")
            self.sessions.keep()
            try:
                self.sessions.use(self._check)
            except BaseException:
                self.sessions.close()
                raise
        try:
            self.journal.read()
        except JournalDamaged as damage:
            # Its decisions can be asked for still, and the other nodes have nothing to do with it.
            logger.error("%s", damaged(self.name, damage).message)

    def _check(self, session: Session) -> None:
        check_identity(tables.identity(session), self.name, self.domain)
        ((mode,),) = session.command("PRAGMA main.journal_mode")
        if mode != "wal":
            raise ConfigError(f"node {self.name!r} is in {mode!r} mode, not in WAL mode", hint="run `nodoubt init`")
        self._force_wal()
        try:
            self.journal.check_writable(token(self.world.random(5)))
        except OSError as error:
            raise ConfigError(
                f"node {self.name!r} cannot keep its journal {self.journal.path}: {error}",
                hint="this user must be able to write in the folder of the database",
            ) from error

    def _force_wal(self) -> None:
        """Readers rebuilt the index of the WAL file from frames that a killed writer may not have forced."""
        try:
            descriptor = os.open(self.path.with_name(f"{self.path.name}-wal"), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    async def close(self) -> None:
        await self.world.aside(self.sessions.close)

    # Branches

    def refusal(self, isolation: Isolation, *, read_only: bool) -> str:
        return ""

    async def begin(self, branch: BranchId, *, read_only: bool, is_home: bool, terms: Terms = ATOMIC) -> SQLiteBranch:
        self._require_open()
        if read_only and terms.isolation is not Isolation.SERIALIZABLE:
            with self.sessions.explained("begin"):
                session = self.sessions.new(for_branch=True)
        else:
            acquire_s = self.settings.acquire_timeout_s
            session = await self._locked(branch.gid, min(terms.lock_wait_s or acquire_s, acquire_s))
        try:
            with self.sessions.explained("begin"):
                if read_only:
                    session.command("PRAGMA query_only = ON")
                if not session.in_transaction:
                    session.command("BEGIN")
                return self._branch(session, branch, is_home=is_home or read_only, changes=not (is_home or read_only))
        except BaseException:
            session.close()
            raise

    async def close_gate(self, wait_s: float) -> SQLiteGate:
        self._require_open()
        return SQLiteGate(self, await self._locked("", wait_s))

    def _require_open(self) -> None:
        if self.sessions.closed:
            raise NodeUnavailable(f"node {self.name!r} is closed", retryable=False)

    async def _locked(self, gid: str, wait_s: float) -> Session:
        """A session with the write lock of a database in which no branch is in doubt. Raises NodeUnavailable."""
        doubt_until: float | None = None
        while True:
            session = await self.sessions.locked(wait_s)
            try:
                with self.sessions.explained("begin"):
                    self.journal.drop_temporary()
                    doubt = self._doubt(session)
                    if doubt is None:
                        return session
            except BaseException:
                session.close()
                raise
            session.close()
            doubt_until = doubt_until or self.world.now() + min(self.settings.lock_timeout_s / 2, wait_s)
            await self._outlast(doubt.branch, gid, doubt_until)

    async def _outlast(self, doubt: BranchId, gid: str, until: float) -> None:
        """Wait until a branch is not in doubt any more, leaving the lock to whoever settles it. Raises NodeUnavailable."""
        self._orphan = doubt.text()
        may_wait = self.hurry(doubt, gid)
        while may_wait and self.world.now() < until:
            await self.world.sleep(DOUBT_LOOK_S)
            found = await self.sessions.read("begin", self._doubt)
            if found is None or found.branch != doubt:
                return
        raise NodeUnavailable(
            f"node {self.name!r}: the branch of {doubt.gid} must be settled first",
            hint=f"home of that transaction is {doubt.home!r}: is it reachable?"
            if may_wait
            else "do the whole transaction again: it held locks that settling may need",
        )

    def _branch(self, session: Session, branch: BranchId, *, is_home: bool, changes: bool) -> SQLiteBranch:
        known: tables.Keys | None = None
        if changes:
            known = self.keys = tables.keys(session, self.keys)
        guard = SQLiteGuard(
            self.name, branch.gid, is_home=is_home, has_key=lambda table: known is None or table in known.carried
        )
        return SQLiteBranch(self, session, branch, guard, changes=changes)

    def _doubt(self, session: Session) -> Record | None:
        """The journalled branch that is in doubt, if there is one; without the lock, only a look. What is done is left to lie."""
        record = self.journal.read()
        if record is None or tables.has_evidence(session, record.branch.gid, record.branch.branch):
            return None
        return record

    def finds_null_key(self, query: str) -> bool:
        """Run a query on the last committed state."""
        return bool(self.sessions.use(lambda session: session.command(query)))

    # Recovery

    async def prepared(self) -> Listing:
        doubt = await self.sessions.read("list prepared branches", self._doubt)
        if doubt is None:
            return Listing(ours=())
        if doubt.branch.domain != self.domain:
            return Listing(ours=(), foreign=1)
        text = doubt.branch.text()
        if self._orphan != text and self.sessions.turns.take_now():
            try:
                if await self.sessions.read("list prepared branches", self._is_orphan):
                    self._orphan = text
            finally:
                self.sessions.turns.give_back()
        written_s = self.journal.written_at_s()
        age_s = 0.0 if written_s is None else max(0.0, self.world.unix_ms() / 1000 - written_s)
        return Listing(ours=(PreparedBranch(id=doubt.branch, age_s=age_s, ownerless=self._orphan == text),))

    def _is_orphan(self, session: Session) -> bool:
        """Whether the lock is free: then the owner of the journal is dead."""
        try:
            return try_lock(session) and self._doubt(session) is not None
        finally:
            session.roll_back()

    async def applied(self, branches: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        return await self.sessions.read("show evidence", lambda session: tables.applied(session, branches))

    async def finish(self, branch: BranchId, *, commit: bool) -> Ended:
        try:
            return await self._write(
                "finish a branch",
                lambda session: self._finish(session, branch, commit),
                self.settings.lock_timeout_s,
            )
        except NodoubtError as error:
            level = logging.WARNING if isinstance(error, Locked) else logging.ERROR
            logger.log(level, "%s is not finished: %s%s", branch.text(), error.message, self._writer(error))
            return Ended.OWED

    def _writer(self, error: NodoubtError) -> str:
        try:
            record = self.journal.read() if isinstance(error, Locked) else None
        except JournalDamaged:
            return ""
        return f" (it was prepared by process {record.pid})" if record else ""

    def _finish(self, session: Session, branch: BranchId, commit: bool) -> Ended:
        record = self.journal.read()
        journalled = record if record is not None and record.branch.text() == branch.text() else None
        if tables.has_evidence(session, branch.gid, branch.branch):
            if journalled is not None:
                self.journal.drop()
            return Ended.APPLIED
        if journalled is None:
            return Ended.ABSENT
        if commit:
            tables.redo(session, journalled)
        else:
            self.journal.drop()
        return Ended.DONE

    async def probe(self, gids: Sequence[str], in_time: Callable[[], bool] = always) -> Mapping[str, HomeSays]:
        # What stands is read without the lock: a branch that waits for us may hold it.
        known = {gid: row.says for gid, row in (await self.decisions(gids)).items()}
        missing = [gid for gid in gids if gid not in known]
        if not missing:
            return known

        def insert(session: Session) -> Mapping[str, HomeSays]:
            # While we hold the lock, nobody forgets anything.
            if not in_time():
                raise too_late()
            return tables.insert_tombstones(session, missing)

        try:
            answers = await self._write("be probed", insert, self.settings.lock_timeout_s)
        except Locked:
            answers = dict.fromkeys(missing, HomeSays.BUSY)
        return {**known, **answers}

    async def decisions(self, gids: Sequence[str]) -> Mapping[str, DecisionRow]:
        return await self.sessions.read("show decisions", lambda session: tables.decisions(session, gids))

    async def unfinished(self, limit: int) -> Sequence[DecisionRow]:
        return await self.sessions.read("show unfinished decisions", lambda session: tables.unfinished(session, limit))

    async def complete(self, gids: Sequence[str]) -> None:
        await self._write("complete decisions", lambda session: tables.complete(session, gids))

    async def drop_evidence(self, gids: Sequence[str]) -> None:
        await self._write("drop evidence", lambda session: self._drop_evidence(session, gids))

    def _drop_evidence(self, session: Session, gids: Sequence[str]) -> None:
        record = self.journal.read()
        if record is not None and record.branch.gid in gids:
            if not tables.has_evidence(session, record.branch.gid, record.branch.branch):
                raise StatementFailed("", f"{record.branch.text()} is prepared still, its evidence cannot be dropped")
            self.journal.drop()
        # Also a journal that was dropped earlier must not come back without its evidence.
        self.journal.force()
        tables.delete_evidence(session, gids)

    async def old_evidence(self, before_gid: str, limit: int) -> Sequence[str]:
        return await self.sessions.read(
            "show old evidence", lambda session: tables.old_evidence(session, before_gid, limit)
        )

    async def purge(self, before_gid: str, retention_s: float, limit: int) -> int:
        return await self._write("purge", lambda session: tables.purge(session, before_gid, retention_s, limit))

    async def resolve(self, gid: str, *, commit: bool, reason: str) -> HomeSays:
        await self._write(
            "take a resolution", lambda session: tables.resolve(session, gid, commit=commit, reason=reason)
        )
        return (await self.decisions([gid]))[gid].says

    async def inspect(self) -> Sequence[Finding]:
        random = token(self.world.random(5))
        return await self.world.aside(
            lambda: inspect(self.name, self.domain, self.path, self.sessions, self.journal, random)
        )

    async def install(self) -> str:
        random = token(self.world.random(5))
        with self.sessions.explained("be installed"):
            return await self.world.aside(lambda: install(self.path, self.name, self.domain, random))

    def ddl(self) -> str:
        return ddl(self.name, self.domain)

    async def _write(self, what: str, step: Callable[[Session], T], timeout_s: float | None = None) -> T:
        wait_s = self.settings.acquire_timeout_s if timeout_s is None else timeout_s
        return await self.sessions.write(what, step, wait_s)
