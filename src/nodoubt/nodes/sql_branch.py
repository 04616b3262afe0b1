"""A branch on a database server: the steps of the contract, on one pooled session."""

from __future__ import annotations

import logging
import threading
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from nodoubt.errors import NodeUnavailable, NodoubtError
from nodoubt.nodes.contract import ATOMIC, YES, Answer, Ended, Glance, Said, Terms
from nodoubt.nodes.dialect import Session, Stillness
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.nodes.guard import Guard, shorten
from nodoubt.protocol.ids import BranchId

if TYPE_CHECKING:
    from nodoubt.nodes.sql import SqlNode

logger = logging.getLogger("nodoubt")


class SqlBranch:
    """A branch on a database server: see :class:`nodoubt.nodes.contract.Branch`."""

    __slots__ = ("_guard", "_id", "_lock", "_node", "_session", "_stillness", "_terms", "connection")

    def __init__(
        self, node: SqlNode, session: Session, branch: BranchId, *, is_home: bool, terms: Terms = ATOMIC
    ) -> None:
        self._node = node
        self._terms = terms
        self._session: Session | None = session
        #: A deadline may cut the session off from another thread, but not once somebody else has it.
        self._lock = threading.Lock()
        self._id = branch
        #: Set once there is a snapshot that may have to be thrown away.
        self._stillness: Stillness | None = None
        self._guard = Guard(node.name, branch.gid, node.dialect.rules, is_home=is_home, is_outside=session.is_outside)
        self.connection = session.bind(self._guard)

    @property
    def misuse(self) -> NodoubtError | None:
        return self._guard.objection

    def is_retryable(self, error: BaseException) -> bool:
        if error is not self._guard.failure:
            return False
        number = next(iter(error.args), None)
        # The drivers of MariaDB give its number first, and newer ones a sqlstate besides, which is coarser.
        code = number if isinstance(number, int) else getattr(error, "sqlstate", "")
        return self._node.dialect.is_retryable(StatementFailed(str(code), ""))

    def fence(self, error: BaseException | None = None) -> None:
        self._guard.close(error)
        with self._lock:
            if self._session is not None:
                self._session.fence()

    def abandon(self) -> None:
        with self._lock:
            if self._session is not None:
                self._session.abandon()

    def hand_over(self) -> None:
        self._leave(clean=False)

    def _leave(self, *, clean: bool) -> str:
        """Part with the session; returns its handle."""
        with self._lock:
            session, self._session = self._session, None
        if session is None:
            return ""
        # Whoever kept the connection must not reach the session's next branch through it.
        self._guard.close()
        session.fence()
        session.unbind()
        if clean and not self._guard.lasting:
            self._node.pool.give_back(session)
        else:
            self._node.pool.discard(session)
        return session.handle

    async def _undo(self, session: Session) -> bool:
        try:
            clean = await self._node.dialect.undo(session, self._id)
        except (ConnectionLost, StatementFailed):
            clean = False
        self._leave(clean=clean)
        return clean

    async def begin_now(self) -> None:
        if self._session is not None:
            try:
                await self._session.begin_now()
            except (ConnectionLost, StatementFailed) as error:
                raise NodeUnavailable(f"node {self._node.name!r} was lost while beginning: {error}") from error

    async def prepare(self) -> Answer:
        session, dialect = self._session, self._node.dialect
        if session is None:
            return self._gone()
        if self._guard.failure is not None or session.is_outside():
            return await self._refuse(session)
        try:
            tag = await session.command(dialect.prepare(self._id))
        except StatementFailed as failure:
            # "No" takes a rollback that was answered: anything else may have been prepared all the same.
            if not await self._undo(session):
                return Answer(said=Said.UNKNOWN, reason=f"node {self._node.name!r}: {failure}", error=failure.__cause__)
            return self._no(failure)
        except ConnectionLost as lost:
            return self._lost("preparing", lost)
        if dialect.prepared_tag and tag != dialect.prepared_tag:
            return await self._refuse(session)
        return YES

    async def release(self) -> Answer:
        session, dialect = self._session, self._node.dialect
        if session is None:
            return self._gone()
        if self._guard.failure is not None or session.is_outside():
            # What failed let go of the locks that it held.
            return await self._refuse(session)
        try:
            tag = await session.command(dialect.release(self._terms))
        except StatementFailed as failure:
            await self._undo(session)
            return self._no(failure)
        except ConnectionLost as lost:
            self._leave(clean=False)
            return Answer(said=Said.NO, reason=f"node {self._node.name!r} was lost: {lost}", retryable=True, error=lost)
        if dialect.decided_tag and tag != dialect.decided_tag:
            return await self._refuse(session)
        self._leave(clean=True)
        return YES

    async def decide(self, participants: Mapping[int, str]) -> Answer:
        session, dialect = self._session, self._node.dialect
        if session is None:
            return self._gone()
        if self._guard.failure is not None or session.is_outside():
            return await self._refuse(session)
        try:
            tag = await session.command(dialect.decide(self._id, participants))
        except StatementFailed as failure:
            if not await self._undo(session):
                return Answer(said=Said.UNKNOWN, reason=f"node {self._node.name!r}: {failure}", error=failure.__cause__)
            if dialect.is_conflict(failure):
                return Answer(said=Said.CONFLICT, reason="recovery had aborted the transaction", retryable=True)
            return self._no(failure)
        except ConnectionLost as lost:
            self._leave(clean=False)
            return self._lost("deciding", lost)
        if dialect.decided_tag and tag != dialect.decided_tag:
            return await self._refuse(session)
        self._leave(clean=True)
        return YES

    def commit(self) -> Coroutine[Any, Any, Ended]:
        return self._finish(commit=True)

    async def roll_back(self, *, prepared: bool) -> Ended:
        if prepared:
            return await self._finish(commit=False)
        session = self._session
        if session is not None and not await self._undo(session):
            # The server may not have noticed: a statement that waits there would keep the branch's locks.
            await self._node.end_session(self._id, session.handle)
        return Ended.DONE

    async def _finish(self, *, commit: bool) -> Ended:
        session = self._session
        if session is not None:
            try:
                await session.command(self._node.dialect.finish(self._id, commit=commit))
                self._leave(clean=True)
                return Ended.DONE
            except (ConnectionLost, StatementFailed) as error:
                logger.info("node %r: %s; trying on another session", self._node.name, error)
        # The old session may be half-open, with a PREPARE still on its way: it must be over before "absent" counts.
        return await self._node.finish(self._id, commit=commit, owner=self._leave(clean=False))

    async def take_snapshot(self) -> None:
        told = self._stillness
        await self._look(told.look_again if told is not None else self._node.dialect.look(self._terms))

    async def glance(self) -> Glance:
        """See :class:`nodoubt.nodes.contract.Glancing`."""
        self._stillness = told = self._node.dialect.stillness(self._terms)
        if told is None:
            raise NotImplementedError(f"{self._node.kind} does not declare that it tells stillness")
        return told.glances.get(await self._look(told.glance), Glance.BUSY)

    async def is_still(self) -> bool:
        """See :class:`nodoubt.nodes.contract.Glancing`."""
        told = self._stillness
        return told is not None and await self._look(told.still) == told.yes

    async def _look(self, text: str) -> str:
        if self._session is None:
            raise NodeUnavailable(f"the session on node {self._node.name!r} is gone")
        return await self._node.look(self._session, text)

    async def export(self) -> str:
        session, node = self._session, self._node
        if session is None:
            raise NodeUnavailable(f"the snapshot on node {node.name!r} is closed", retryable=False)
        try:
            return await node.dialect.export(session)
        except (ConnectionLost, StatementFailed) as error:
            raise NodeUnavailable(f"node {node.name!r} does not share its snapshot: {error}") from error

    def _lost(self, doing: str, lost: ConnectionLost) -> Answer:
        reason = f"node {self._node.name!r} was lost while {doing}: {lost}"
        # Where it turns out to be an abort, by a cut of our own at the deadline perhaps, another try can help.
        return Answer(said=Said.UNKNOWN, reason=reason, retryable=True, error=lost)

    def _gone(self) -> Answer:
        return Answer(said=Said.NO, reason=f"the session on node {self._node.name!r} is gone", retryable=True)

    async def _refuse(self, session: Session) -> Answer:
        failure = self._guard.failure
        what = "the transaction was over" if session.is_outside() else "a statement had failed"
        await self._undo(session)
        return Answer(
            said=Said.NO,
            reason=f"{what} on node {self._node.name!r}" + (f": {shorten(str(failure))}" if failure else ""),
            error=failure,
        )

    def _no(self, failure: StatementFailed) -> Answer:
        return Answer(
            said=Said.NO,
            reason=f"node {self._node.name!r} refused: {failure}",
            retryable=self._node.dialect.is_retryable(failure),
            error=failure.__cause__,
        )
