"""One live transaction: its machine, its branches, its deadline. What both public shells wrap."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nodoubt.engine.instant import Step
from nodoubt.engine.performer import Performer
from nodoubt.engine.request import PLAIN, Request, check
from nodoubt.errors import (
    Aborted,
    ConfigError,
    GuardError,
    HeuristicOutcome,
    NodeUnavailable,
    NodoubtError,
    Outcome,
    OutcomeUnknown,
)
from nodoubt.nodes.contract import ATOMIC, Branch, Isolation, Node, Terms, may_be_home
from nodoubt.protocol import messages as m
from nodoubt.protocol.ids import BRANCHES_MAX, BranchId
from nodoubt.protocol.states import Phase
from nodoubt.protocol.transaction import Transaction

if TYPE_CHECKING:
    from nodoubt.engine.engine import Engine

#: How long after the deadline the answer to a decision or a rollback is waited for before its session is cut.
PATIENCE_S = 10.0


class Work:
    """A transaction of this process, from its beginning to the truth about its end."""

    def __init__(
        self,
        engine: Engine,
        gid: str,
        *,
        home: str | None,
        timeout_s: float,
        request: Request = PLAIN,
        terms: Terms = ATOMIC,
    ) -> None:
        self.gid = gid
        self.machine = Transaction(gid)
        self.connections: dict[str, Any] = {}
        #: Called when the deadline passes while the block is still at work: the shell interrupts it.
        self.interrupt: Callable[[], None] | None = None
        self.expired = False
        #: Neither commit nor rollback was asked for yet.
        self.is_open = True
        #: When to call `expire`, by the world's clock.
        self.deadline_s = engine.world.now() + timeout_s
        self._engine = engine
        self._home = home
        self._timeout_s = timeout_s
        self._request = request
        #: What its branches are opened for.
        self.terms = terms
        self._read_only: dict[str, bool] = {}
        self._branches: list[Branch] = []
        #: Those that were opened at the beginning.
        self._by_name: dict[str, Branch] = {}
        self._performer = Performer(
            self.machine,
            engine.nodes.get(home or ""),
            engine.world,
            engine.watch,
            retention_s=engine.settings.retention_s,
        )
        self._doom: NodoubtError | None = None
        self._is_overdue = False
        self._is_opening_home = False

    @property
    def outcome(self) -> Outcome:
        """What is known now."""
        return self.machine.outcome

    @property
    def has_written(self) -> bool:
        """Whether a branch is open that may write, and so may hold locks."""
        return any(not self._read_only.get(name, False) for name in self.connections)

    @property
    def home(self) -> str | None:
        """The node that carries, or will carry, the decision."""
        return self._home

    @property
    def opens_at_begin(self) -> bool:
        """Whether :meth:`open_named` is to be called before the block runs."""
        return bool(self._request.writes or self._request.reads)

    async def open_named(self) -> None:
        """Open the branches that were named at the beginning: those of a snapshot at one instant, others in the order of names.

        Raises NodeUnavailable, after which nothing is left open.
        """
        is_snapshot = self.terms.isolation is Isolation.SNAPSHOT
        openers = {name: self._opener(name, read_only=False) for name in self._request.writes}
        openers |= {name: self._opener(name, read_only=True) for name in self._request.reads}
        # Where a writer has the node to himself, its lock is part of the instant; it cannot be waited for before.
        late = [
            name for name in self._request.writes if is_snapshot and not self._engine.node(name).capabilities.concurrent
        ]
        locks = {name: openers.pop(name) for name in late}
        try:
            for _, begin in sorted(openers.items()):
                await begin()
            if is_snapshot:
                looks = {name: self._by_name[name] for name in openers}
                await self._engine.openings.open(locks, looks, self._timeout_s)
        except BaseException as error:
            await self.roll_back(f"{type(error).__name__}: {error}")
            if isinstance(error, NodoubtError):
                error.gid, error.outcome = self.gid, self.outcome
            raise

    async def on(self, name: str, *, read_only: bool = False) -> Any:
        """The connection to a node, opening its branch on first use."""
        self._check_active()
        known = self._read_only.get(name)
        if known is not None:
            if known and not read_only:
                raise self._refuse(f"node {name!r} was opened read-only in this transaction")
            if name not in self.connections:
                raise self._refuse(f"node {name!r} is being opened by another task")
            return self.connections[name]
        if self.terms.isolation is Isolation.SNAPSHOT:
            raise self._not_in_snapshot(name)
        self._read_only[name] = read_only
        try:
            branch = await self._open(name, read_only=read_only, terms=self.terms)
        except BaseException as error:
            self._was_not_opened(name, error)
            raise
        connection = self.connections[name] = branch.connection
        return connection

    async def share(self, name: str) -> Any:
        """One more connection to the snapshot of a node, to read from. Raises ConfigError where the node cannot share it."""
        self._check_active()
        node, shown = self._engine.node(name), self._by_name.get(name)
        if shown is None:
            raise self._not_in_snapshot(name)
        if not node.capabilities.shares_snapshots:
            raise ConfigError(f"node {name!r} cannot show one snapshot to several connections", gid=self.gid)
        terms = replace(self.terms, export=await shown.export())
        try:
            branch = await self._begin(node, self._enlist(node, read_only=True), read_only=True, terms=terms)
            await branch.take_snapshot()
        except BaseException as error:
            self._was_not_opened(name, error)
            raise
        return branch.connection

    def _was_not_opened(self, name: str, error: BaseException) -> None:
        """A block that swallows the error with which a branch was not opened must not commit half of what it meant to do."""
        if isinstance(error, NodoubtError):
            error.gid = self.gid
            self.doom(error)
        else:
            why = f"node {name!r} was not opened: {type(error).__name__}"
            self.doom(Aborted(why, gid=self.gid, retryable=True))

    def _opener(self, name: str, *, read_only: bool) -> Step:
        """Enlist a node; returns what opens its branch."""
        node = self._engine.node(name)
        branch_id = self._enlist(node, read_only=read_only)
        self._read_only[name] = read_only

        async def begin() -> None:
            branch = await self._begin(node, branch_id, read_only=read_only, terms=self.terms)
            self._by_name[name], self.connections[name] = branch, branch.connection

        return begin

    async def _open(self, name: str, *, read_only: bool, terms: Terms) -> Branch:
        node = self._engine.node(name)
        if terms is not ATOMIC:
            check(node, terms.isolation, read_only=read_only)
        return await self._begin(node, self._enlist(node, read_only=read_only), read_only=read_only, terms=terms)

    def _enlist(self, node: Node, *, read_only: bool) -> BranchId:
        """Give the next branch its number and, if it is the first that can be, make it home."""
        if self._home is None and not read_only:
            self._home = node.name if may_be_home(node) else self._engine.default_home()
        number = len(self.machine.branches)
        if number >= BRANCHES_MAX:
            raise ConfigError(f"a transaction has at most {BRANCHES_MAX} branches", gid=self.gid)
        is_home = node.name == self._home and not read_only
        self._performer.note(m.Enlisted(branch=number, node=node.name, read_only=read_only, home=is_home))
        if is_home:
            self._performer.home = node
        return BranchId(domain=self._engine.domain, gid=self.gid, branch=number, home=self._home or node.name)

    async def _begin(self, node: Node, branch_id: BranchId, *, read_only: bool, terms: Terms) -> Branch:
        if self._engine.left and self._engine.left.get(node.name):
            await self._engine.catch_up(node)
        is_home = self.machine.home == branch_id.branch
        branch = await node.begin(branch_id, read_only=read_only, is_home=is_home, terms=terms)
        if not self.is_open and not self._is_opening_home:
            # The task that asked for it was left behind by its block.
            await branch.roll_back(prepared=False)
            raise self._over_already()
        self._performer.live[branch_id.branch] = branch
        self._branches.append(branch)
        if self.expired:
            branch.fence(self.timed_out())
        return branch

    async def commit(self) -> Outcome:
        """Leave the block: commit everywhere, or raise what is true instead."""
        doom = self._doom
        if doom is None and self._engine.world.now() >= self.deadline_s:
            # Who blocks the loop, as SQLite does, keeps the alarm from ringing.
            doom = self.timed_out()
        for branch in self._branches:
            doom = doom or branch.misuse
        if opening := self._read_only.keys() - self.connections:
            why = f"node {min(opening)!r} is being opened by another task"
            doom = doom or self._refuse(why, hint="await tx.on() in the block")
        if doom is not None:
            await self.roll_back(doom.message)
            doom.outcome = self.outcome
            raise doom
        return await self._end(m.CommitRequested())

    async def roll_back(self, reason: str) -> Outcome:
        """Undo everything. Never raises for a transaction that is already over."""
        if not self.is_open or self.machine.phase is not Phase.ACTIVE:
            return self.outcome
        try:
            return await self._end(m.AbortRequested(reason=self._doom.message if self._doom else reason))
        except Aborted:
            return self.outcome

    async def _end(self, request: m.CommitRequested | m.AbortRequested) -> Outcome:
        self.is_open = False
        for branch in self._branches:
            branch.fence()
        try:
            if isinstance(request, m.CommitRequested) and not all(self.machine.read_only):
                await self._ready_home()
            await self._performer.tell(request)
        except Aborted:
            raise
        except BaseException:
            # A bug, or an interrupt of this very thread: whatever was prepared is the settler's now.
            for branch in self._branches:
                branch.abandon()
                branch.hand_over()
            self._over()
            self._engine.hand_over(self, self._performer.decided)
            raise
        finally:
            self._over()
        return self._conclude()

    def _over(self) -> None:
        """Not at work any more: from now on the settler may look at it."""
        self._engine.live.pop(self.gid, None)

    async def _ready_home(self) -> None:
        """See that home is there, and begun, before anybody is asked to prepare."""
        home = self.machine.home
        if home is not None and len(self.machine.branches) == 1:
            return
        try:
            branch = await self._open_home() if home is None else self._performer.live[home]
            await branch.begin_now()
            if self.expired:
                raise self.timed_out()
        except NodoubtError as error:
            await self._performer.tell(m.AbortRequested(reason=error.message))
            raise Aborted(
                error.message, gid=self.gid, outcome=self.outcome, retryable=error.retryable, hint=error.hint
            ) from error

    async def _open_home(self) -> Branch:
        if self._home is None:
            raise ConfigError("no configured node can hold a decision", hint="run `nodoubt doctor`")
        self._is_opening_home = True
        # Nobody reads there, so any instant will do.
        branch = await self._open(self._home, read_only=False, terms=ATOMIC)
        branch.fence()
        return branch

    def _conclude(self) -> Outcome:
        outcome = self.outcome
        closing = self._performer.closing
        if isinstance(closing, m.Forget):
            self._engine.forget(self.machine, self._home)
        elif closing is not None:
            for branch in self._branches:
                branch.hand_over()
            self._engine.hand_over(self, self._performer.decided)
        if outcome.strays:
            raise HeuristicOutcome(
                f"decided {outcome.state}, but somebody else finished it differently on {', '.join(outcome.strays)}",
                gid=self.gid,
                outcome=outcome,
                hint=f"look with `nodoubt tx show {self.gid}` and repair the data by hand",
            )
        if outcome.state == "committed":
            return outcome
        answer = self._performer.answer
        cause = answer.error if answer else None
        if outcome.state == "aborted":
            raise Aborted(
                outcome.reason or "the transaction was aborted",
                gid=self.gid,
                outcome=outcome,
                retryable=answer.retryable if answer else None,
            ) from cause
        raise OutcomeUnknown(
            f"the decision was sent to {self._home!r} and its answer lost: {outcome.reason}",
            gid=self.gid,
            outcome=outcome,
            hint="do not retry; it is settled in the background: ask tm.outcome(gid)",
        ) from cause

    def may_retry(self, error: BaseException) -> bool:
        """Whether running the whole closure again is safe and can help: aborted for certain, by something that passes."""
        passes = isinstance(error, Aborted | NodeUnavailable) and error.retryable
        return self.outcome.state == "aborted" and (passes or any(b.is_retryable(error) for b in self._branches))

    def doom(self, error: NodoubtError) -> None:
        """Make the transaction abort whatever the block does."""
        self._doom = self._doom or error

    def _not_in_snapshot(self, name: str) -> GuardError:
        self._engine.node(name)
        return self._refuse(f"node {name!r} is not in the snapshot", hint="name it when the snapshot is opened")

    def _refuse(self, message: str, hint: str = "") -> GuardError:
        """A rule was broken, and the block may swallow the error. What a view has read is read all the same."""
        error = GuardError(message, gid=self.gid, hint=hint)
        if not self._is_view:
            self.doom(error)
        return error

    @property
    def _is_view(self) -> bool:
        return self.terms.isolation is Isolation.SNAPSHOT and not self._request.writes

    def _check_active(self) -> None:
        if self.expired:
            raise self.timed_out()
        if not self.is_open:
            raise self._over_already()

    def _over_already(self) -> GuardError:
        return GuardError("the transaction is over", gid=self.gid, outcome=self.outcome)

    def timed_out(self) -> Aborted:
        return Aborted(
            f"the transaction was not over within {self._timeout_s:g} s",
            gid=self.gid,
            outcome=self.outcome,
            retryable=True,
            hint=f"pass a larger {'max_age to snapshot()' if self._is_view else 'timeout to transaction()'}, or do less",
        )

    def expire(self) -> None:
        """The deadline: before the decision the connections become unusable at once (recovery rule 10).

        Nobody waits for a dead connection for ever either: neither behind a decision that is on its way, of which nothing
        is undone, nor behind the rollback of a block that was interrupted. Nor for a block that does not let go of its locks
        when it is interrupted, or was never entered.
        """
        phase, is_first = self.machine.phase, not self._is_overdue
        self._is_overdue, self.deadline_s = True, self._engine.world.now() + PATIENCE_S
        if phase is Phase.ACTIVE and is_first:
            self._stop_block()
        elif phase is Phase.PREPARING or not is_first:
            self.deadline_s = math.inf
            self.sever()
            if not self._branches:
                self._over()

    def _stop_block(self) -> None:
        self.expired = True
        self.doom(self.timed_out())
        for branch in self._branches:
            branch.fence(self.timed_out())
        # Who leaves the block in another thread takes it away.
        if (interrupt := self.interrupt) is not None:
            interrupt()

    def sever(self) -> None:
        """Cut every session: each call that waits gets no answer, and the machine goes on from that fact."""
        for branch in self._branches:
            branch.abandon()
