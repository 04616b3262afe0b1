"""Turns orders into calls of nodes, and their answers into facts. The only seam where a crash point lies.

The same performer serves live transactions and recovered ones; they differ in what their branches are. ``watch`` sees every
order before it is carried out and every fact before the machine does: crash harnesses and traces hang there.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Literal, Protocol

from nodoubt.engine.moments import Moment
from nodoubt.errors import NodoubtError
from nodoubt.nodes.contract import Answer, Branch, Ended, Node, Said
from nodoubt.nodes.world import World
from nodoubt.protocol import messages as m
from nodoubt.protocol.ids import BranchId
from nodoubt.protocol.transaction import Transaction
from nodoubt.protocol.verdicts import Action, Age, HomeSays, NodeSays, Whose, verdict

logger = logging.getLogger("nodoubt")

Watch = Callable[[Literal["order", "fact"], str, m.Order | m.Fact], None]

#: A probe that finds a committer at work is repeated this often before the settler takes over.
PROBES_MAX = 5


class Finisher(Protocol):
    """What a prepared branch must be able to do; live branches can do more."""

    async def commit(self) -> Ended: ...

    async def roll_back(self, *, prepared: bool) -> Ended: ...


class Adopted:
    """A branch that another session, process or machine prepared."""

    __slots__ = ("_id", "_node")

    def __init__(self, node: Node, branch: BranchId) -> None:
        self._node = node
        self._id = branch

    async def commit(self) -> Ended:
        return await self._node.finish(self._id, commit=True)

    async def roll_back(self, *, prepared: bool) -> Ended:
        return await self._node.finish(self._id, commit=False)


class Performer:
    """Carries out the orders of one machine, step by step, until it gives no more."""

    __slots__ = (
        *("_machine", "_retention_s", "_said", "_watch", "_world"),
        *("adopted", "answer", "closing", "decided", "home", "live", "note"),
    )

    def __init__(
        self,
        machine: Transaction,
        home: Node | None,
        world: World,
        watch: Watch | None,
        *,
        retention_s: float = math.inf,
    ) -> None:
        self._machine = machine
        #: Give the machine a fact; returns what follows from it.
        self.note = machine.take if watch is None else partial(_watched, watch, machine)
        #: The node that carries the decision, once it was chosen.
        self.home = home
        self._world = world
        self._watch = watch
        self._retention_s = retention_s
        #: When the decision was sent.
        self.decided: Moment | None = None
        #: The branches that were opened here.
        self.live: dict[int, Branch] = {}
        #: What the last probe found.
        self._said = HomeSays.ABORTED
        self.adopted: Mapping[int, Adopted] = {}
        #: The answer that made the transaction abort, for the error that the caller gets.
        self.answer: Answer | None = None
        #: Forget or HandOver, once the machine ordered it.
        self.closing: m.Order | None = None

    async def tell(self, fact: m.Fact) -> None:
        """Give the machine a fact and carry out all that follows from it."""
        orders = self.note(fact)
        while orders:
            self._announce(orders)
            if len(orders) == 1:
                answer = await self._perform(orders[0])
                orders = [] if answer is None else self.note(answer)
            else:
                answers = await self._world.together([self._perform(order) for order in orders])
                orders = [following for answer in answers if answer is not None for following in self.note(answer)]

    async def follow(self, orders: list[m.Order]) -> None:
        """Carry out the first orders of a recovered machine."""
        for order in orders:
            self._announce([order])
            if (answer := await self._perform(order)) is not None:
                await self.tell(answer)

    def _announce(self, orders: list[m.Order]) -> None:
        """Before any of them is begun: whoever watches may end this process there."""
        if self._watch is not None:
            for order in orders:
                self._watch("order", self._machine.gid, order)

    def _perform(self, order: m.Order) -> Coroutine[Any, Any, m.Fact | None]:
        return _PERFORM[type(order)](self, order)

    async def _prepare(self, order: m.Prepare) -> m.Fact:
        answer = await self.live[order.branch].prepare()
        if answer.said is Said.YES:
            return m.Prepared(branch=order.branch)
        self._remember(answer)
        if answer.said is Said.UNKNOWN:
            return m.PrepareLost(branch=order.branch, reason=answer.reason)
        return m.Refused(branch=order.branch, reason=answer.reason)

    async def _release(self, order: m.Release) -> m.Fact:
        answer = await self.live[order.branch].release()
        if answer.said is Said.YES:
            return m.Released(branch=order.branch)
        self._remember(answer)
        return m.Refused(branch=order.branch, reason=answer.reason)

    async def _decide(self, order: m.Decide) -> m.Fact:
        self.decided = Moment.of(self._world)
        answer = await self.live[order.branch].decide(self._machine.participants)
        if answer.said is Said.YES:
            return m.DecisionDurable()
        self._remember(answer)
        match answer.said:
            case Said.CONFLICT:
                return m.DecisionConflict()
            case Said.NO:
                return m.DecisionFailed(reason=answer.reason)
            case _:
                return m.DecisionLost(reason=answer.reason)

    async def _probe(self, order: m.Probe) -> m.Fact:
        reason = "home is not known"
        for _ in range(PROBES_MAX if self.home else 0):
            try:
                says = self._said = await (self._read_home if self._is_late else self._probe_home)()
            except NodoubtError as error:
                reason = error.message
                break
            if says in (HomeSays.COMMITTED, HomeSays.COMPLETE):
                return m.FoundCommitted()
            if self._is_late:
                reason = "too late to know: its decision may have been purged"
                break
            if says in (HomeSays.ABORTED, HomeSays.FRESH):
                return m.FoundAborted()
            reason = f"home says: {says}"
            if says is not HomeSays.BUSY:
                break
        return m.HomeSilent(reason=reason)

    async def _commit(self, order: m.CommitBranch) -> m.Fact:
        branch = order.branch
        ended = await self._finisher(branch).commit()
        if ended is Ended.ABSENT:
            # Evidence is dropped once the decision is complete, so an absent branch without it is no stray by itself.
            # Home is read after the evidence was: what is incomplete now was incomplete then.
            case = verdict(await self._home_says(), NodeSays.ABSENT, Whose.OURS, Age.RIPE)
            if case.action is Action.WAIT:
                return m.BranchOwed(branch=branch, reason=case.why)
            if case.action is Action.REPORT:
                logger.error("%s: branch %s: %s", self._machine.gid, branch, case.why)
                return m.BranchStrayed(branch=branch)
        if ended is Ended.OWED:
            return m.BranchOwed(branch=branch, reason="the node did not finish it")
        return m.BranchCommitted(branch=branch)

    async def _roll_back(self, order: m.RollbackBranch) -> m.Fact:
        branch = order.branch
        if not order.prepared and branch not in self.live:
            return m.BranchRolledBack(branch=branch)
        ended = await self._finisher(branch).roll_back(prepared=order.prepared)
        if ended is Ended.OWED:
            return m.BranchOwed(branch=branch, reason="the node did not finish it")
        if ended is Ended.APPLIED:
            case = verdict(self._said, NodeSays.APPLIED, Whose.OURS, Age.RIPE)
            # A tombstone that is fresh tells recovery nothing of a branch that is gone; of a live one all is known.
            if case.action is Action.REPORT or branch in self.live:
                logger.error("%s: branch %s was committed by somebody else", self._machine.gid, branch)
                return m.BranchStrayed(branch=branch)
        return m.BranchRolledBack(branch=branch)

    @property
    def _is_late(self) -> bool:
        """Whether a decision of ours may have been carried out by others and purged, as when a laptop slept for hours."""
        return self.decided is not None and self.decided.is_late(self._world, self._retention_s)

    async def _probe_home(self) -> HomeSays:
        return await probe_one(self.home, self._machine.gid, lambda: not self._is_late)

    async def _read_home(self) -> HomeSays:
        """Without a tombstone, which would tell others that it was aborted."""
        row = (await self.home.decisions([self._machine.gid])).get(self._machine.gid) if self.home else None
        return row.says if row else HomeSays.SILENT

    async def _home_says(self) -> HomeSays:
        """Read the decision that is known to be committed; a row that was purged had been complete."""
        if self.home is None:
            return HomeSays.STRANGER
        try:
            row = (await self.home.decisions([self._machine.gid])).get(self._machine.gid)
        except NodoubtError:
            return HomeSays.SILENT
        return row.says if row else HomeSays.COMPLETE

    async def _close(self, order: m.Order) -> None:
        """Forget and hand over are the engine's bookkeeping, done when the machine has ended."""
        self.closing = order

    def _finisher(self, branch: int) -> Finisher:
        return self.live.get(branch) or self.adopted[branch]

    def _remember(self, answer: Answer) -> None:
        if self.answer is None:
            self.answer = answer


def _watched(watch: Watch, machine: Transaction, fact: m.Fact) -> list[m.Order]:
    watch("fact", machine.gid, fact)
    return machine.take(fact)


async def probe_one(home: Node | None, gid: str, in_time: Callable[[], bool]) -> HomeSays:
    """Ask home about one gid."""
    return (await home.probe([gid], in_time)).get(gid, HomeSays.BROKEN) if home else HomeSays.STRANGER


_PERFORM: Mapping[type[m.Order], Callable[[Performer, Any], Coroutine[Any, Any, m.Fact | None]]] = {
    m.Prepare: Performer._prepare,
    m.Release: Performer._release,
    m.Decide: Performer._decide,
    m.Probe: Performer._probe,
    m.CommitBranch: Performer._commit,
    m.RollbackBranch: Performer._roll_back,
    m.Forget: Performer._close,
    m.HandOver: Performer._close,
}
