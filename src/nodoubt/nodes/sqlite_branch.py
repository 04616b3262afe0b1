"""One transaction's part on a SQLite database: the contract's steps.

A writing branch holds the database's only write lock from its beginning to its end, in an ordinary transaction. To *prepare*
is to force the journal while the lock is held; to *commit* is to commit that transaction, which carries the evidence. The
journal is left where it is then: without the lock, which went with the commit, it may already be somebody else's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Protocol

from nodoubt.errors import NodeUnavailable, NodoubtError
from nodoubt.journal.files import Journal, NotWritten, PerhapsWritten
from nodoubt.journal.record import Record, RecordTooLarge
from nodoubt.nodes import sqlite_tables as tables
from nodoubt.nodes.apsw_driver import Session, SQLiteConnection
from nodoubt.nodes.contract import YES, Answer, Ended, Said
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.nodes.guard import shorten
from nodoubt.nodes.sqlite_guard import SQLiteGuard
from nodoubt.nodes.sqlite_sessions import MOVED, Sessions
from nodoubt.nodes.world import World
from nodoubt.protocol.ids import BranchId

logger = logging.getLogger("nodoubt")

#: After these answers the work may succeed when it is done again.
RETRYABLE = frozenset({"SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_INTERRUPT", "SQLITE_NOMEM"})
#: COMMIT answered so *before* its last frame was in the WAL file whole: nothing can bring the transaction back.
#: (Of SQLITE_FULL: the frame that commits is written last, and SQLITE_FULL means that a frame did not fit.)
CERTAINLY_NOT = frozenset({"SQLITE_CONSTRAINT", "SQLITE_BUSY", "SQLITE_FULL", "SQLITE_READONLY", "SQLITE_INTERRUPT"})


class Host(Protocol):
    """What a branch needs of its node."""

    name: str
    world: World
    journal: Journal
    keys: tables.Keys | None
    sessions: Sessions

    async def finish(self, branch: BranchId, *, commit: bool) -> Ended:
        """See the contract."""

    def finds_null_key(self, query: str) -> bool:
        """Run a query on the last committed state."""


class SQLiteBranch:
    """See :class:`nodoubt.nodes.contract.Branch`."""

    __slots__ = ("_guard", "_id", "_node", "_session", "connection")

    def __init__(self, node: Host, session: Session, branch: BranchId, guard: SQLiteGuard, *, changes: bool) -> None:
        self._node = node
        self._session = session
        self._id = branch
        self._guard = guard
        self.connection: SQLiteConnection = session.bind(guard, changes=changes)

    @property
    def misuse(self) -> NodoubtError | None:
        return self._guard.objection

    def is_retryable(self, error: BaseException) -> bool:
        """A single writer meets no deadlock and no serialization failure."""
        return False

    def fence(self, error: BaseException | None = None) -> None:
        self._guard.close(error)

    def abandon(self) -> None:
        self._guard.close(NodeUnavailable(f"the session on node {self._node.name!r} was cut off", gid=self._id.gid))
        self._session.abandon()

    def hand_over(self) -> None:
        self._session.close()

    async def begin_now(self) -> None:
        """It is begun already."""

    async def prepare(self) -> Answer:
        return await self._node.world.aside(self._prepare)

    async def release(self) -> Answer:
        self._session.close()
        if self._session.abandoned:
            reason = f"the session on node {self._node.name!r} was cut off"
            return Answer(said=Said.NO, reason=reason, retryable=True)
        # Some failures end the transaction, and with it the lock by which a serializable one keeps what it read.
        if self._guard.failure is not None:
            return self._no(f"a statement had failed: {shorten(str(self._guard.failure))}", self._guard.failure)
        return YES

    async def decide(self, participants: Mapping[int, str]) -> Answer:
        return await self._node.world.aside(lambda: self._decide(participants))

    async def commit(self) -> Ended:
        if await self._node.world.aside(self._commit):
            return Ended.DONE
        return await self._node.finish(self._id, commit=True)

    async def roll_back(self, *, prepared: bool) -> Ended:
        if not prepared:
            await self._node.world.aside(self._session.close)
            return Ended.DONE
        if await self._node.world.aside(self._break_promise):
            return Ended.DONE
        return await self._node.finish(self._id, commit=False)

    async def take_snapshot(self) -> None:
        # BEGIN alone takes no snapshot: the first look does. Who holds the write lock sees the last state in any case.
        with self._node.sessions.explained("show a snapshot"):
            tables.has_evidence(self._session, self._id.gid, self._id.branch)

    async def export(self) -> str:
        raise NodeUnavailable(f"node {self._node.name!r}: SQLite shares no snapshots", retryable=False)

    def _prepare(self) -> Answer:
        try:
            with self._session.hold():
                answer = self._objection() or self._promise()
        except ConnectionLost as lost:
            # It was cut off before anything was promised.
            return self._no(str(lost), retryable=True)
        except StatementFailed as failure:
            answer = self._no(str(failure), failure)
        if answer.said is Said.NO:
            self._session.close()
        return answer

    def _objection(self) -> Answer | None:
        """Why the block's work cannot be carried to its end, if so."""
        if not self._session.in_transaction:
            return self._no("a failed statement rolled the branch back", self._guard.failure)
        if self._guard.failure is not None:
            return self._no(f"a statement had failed: {shorten(str(self._guard.failure))}", self._guard.failure)
        if left := self._session.left():
            return self._no(
                f"not all statements of {shorten(left)!r} were run: apsw goes on only as rows are fetched; fetch all of them"
            )
        if self._session.deferred_violations():
            return self._no("a deferred foreign key is violated")
        if self._node.sessions.is_moved():
            return self._no(MOVED)
        return None

    def _promise(self) -> Answer:
        session, node, keys = self._session, self._node, self._node.keys
        queries = {table: keys.null_query(table) for table in sorted(self._guard.touched)} if keys else {}
        for table, query in queries.items():
            # Before or after: a row may have come with such a key, gone, or changed.
            if query and (session.command(query) or node.finds_null_key(query)):
                return self._no(f"table {table!r} has rows whose primary key is NULL: a changeset cannot carry them")
        try:
            changeset = session.changeset()
            record = Record(
                branch=self._id,
                pid=os.getpid(),
                changeset=changeset,
                columns=tables.columns(session, changeset),
                sequences=tables.sequences(session, frozenset(self._guard.touched)),
            )
            if why := self._rehearse(record):
                return self._no(
                    f"after a crash it could not be done again ({why}): make this node the transaction's home"
                )
            node.journal.write(record)
        except (NotWritten, RecordTooLarge) as error:
            return self._no(str(error), error.__cause__ or error)
        except PerhapsWritten as error:
            return Answer(said=Said.UNKNOWN, reason=f"node {node.name!r}: {error}", error=error.__cause__)
        return YES

    def _rehearse(self, record: Record) -> str:
        """Do again what recovery would do, in the place of what the block did; why that is not the same, or "".

        What can go wrong goes wrong before the vote, and what is committed is what would come of a crash. Not the same are keys,
        for example, that are equal under their collation and not identical: one row to the table, and two to a changeset.
        """
        self._session.restart()
        try:
            if self._guard.lasting:
                # What the block registered helps nobody who recovers.
                self._node.sessions.use(lambda session: tables.compile_redo(session, record))
            tables.redo(self._session, record)
        except StatementFailed as failure:
            return str(failure)
        return "" if self._session.has_done(record.changeset) else "it would change other rows"

    def _decide(self, participants: Mapping[int, str]) -> Answer:
        session, gid = self._session, self._id.gid
        try:
            with session.hold():
                answer = self._objection()
                if answer is None:
                    try:
                        tables.decide(session, gid, participants)
                    except StatementFailed as failure:
                        if failure.code == "SQLITE_CONSTRAINT":
                            return Answer(
                                said=Said.CONFLICT, reason="recovery had aborted the transaction", retryable=True
                            )
                        raise
                    answer = self._commit_decision()
        except ConnectionLost as lost:
            return self._no(str(lost), retryable=True)
        except StatementFailed as failure:
            answer = self._no(str(failure), failure)
        finally:
            session.close()
        return answer

    def _commit_decision(self) -> Answer:
        session = self._session
        try:
            session.command("COMMIT")
        except StatementFailed as failure:
            try:
                session.roll_back()
                if tables.is_decided(session, self._id.gid):
                    return YES
            except StatementFailed as again:
                logger.warning("node %r: %s", self._node.name, again)
                return self._unknown(failure)
            return self._no(str(failure), failure) if failure.code in CERTAINLY_NOT else self._unknown(failure)
        if self._node.sessions.is_moved():
            return self._unknown(StatementFailed("", MOVED))
        return YES

    def _commit(self) -> bool:
        """Commit the held transaction; if that fails the journal still holds everything."""
        try:
            with self._session.hold():
                self._node.sessions.require_unmoved()
                self._session.command("COMMIT")
        except (ConnectionLost, StatementFailed, NodeUnavailable) as error:
            logger.info("node %r: %s; going by the journal", self._node.name, error)
            return False
        finally:
            self._session.close()
        return True

    def _break_promise(self) -> bool:
        """Drop the journal first, while the lock is held: afterwards it may be somebody else's."""
        try:
            with self._session.hold():
                self._node.journal.drop()
        except (ConnectionLost, OSError) as error:
            logger.info("node %r: %s", self._node.name, error)
            return False
        finally:
            self._session.close()
        return True

    def _no(self, reason: str, cause: BaseException | None = None, *, retryable: bool = False) -> Answer:
        if isinstance(cause, StatementFailed):
            retryable = cause.code in RETRYABLE
            cause = cause.__cause__
        return Answer(said=Said.NO, reason=f"node {self._node.name!r}: {reason}", retryable=retryable, error=cause)

    def _unknown(self, failure: StatementFailed) -> Answer:
        reason = f"node {self._node.name!r} failed while deciding: {failure}"
        return Answer(said=Said.UNKNOWN, reason=reason, error=failure.__cause__)
