"""The machine: one transaction's `home` plan, from enlistment to the last branch.

One gate (:meth:`Transaction.take`): legality first, bookkeeping second, orders last. New work and recovered work go through
the same machine; recovered work starts in ``PROBING`` with its branches prepared.

Invariants, checked by enumeration over every order of facts:

- ``CommitBranch`` is ordered only after ``DecisionDurable`` or ``FoundCommitted``.
- ``RollbackBranch`` of a branch that may be prepared is ordered only after ``DecisionConflict`` or ``FoundAborted``.
- ``Decide`` is ordered at most once, and only after every other writer voted yes.
- ``Probe`` is ordered only when home's own branch cannot be in its way: it was rolled back, or its answer is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nodoubt.errors import InvariantBroken, Outcome, require
from nodoubt.protocol import messages as m
from nodoubt.protocol.states import ASKED, BRANCHES, ORDERED, PHASES, BranchState, Phase

_COMMITTED = Outcome(state="committed")
_PROMISED = (BranchState.PREPARED, BranchState.UNSURE)
_ENDED = (BranchState.COMMITTED, BranchState.ROLLED_BACK, BranchState.RELEASED, BranchState.STRAYED)


class Transaction:
    """The state of one transaction. Pure: give it facts, carry out the orders that it returns, in any order."""

    __slots__ = (
        "asked",
        "branches",
        "fenced",
        "gid",
        "home",
        "left_over",
        "nodes",
        "participants",
        "phase",
        "probed",
        "read_only",
        "reason",
    )

    def __init__(self, gid: str) -> None:
        self.gid = gid
        self.phase = Phase.ACTIVE
        self.branches: list[BranchState] = []
        #: How many branches wait for an answer of their node.
        self.asked = 0
        self.nodes: list[str] = []
        self.read_only: list[bool] = []
        self.home: int | None = None
        #: The branches other than home's that the decision binds: number -> node.
        self.participants: dict[int, str] = {}
        #: A tombstone is known to be durable at home.
        self.fenced = False
        #: The machine has ended and handed branches over.
        self.left_over = False
        #: ``Probe`` was ordered.
        self.probed = False
        self.reason = ""

    @classmethod
    def recovered(cls, gid: str, branches: Mapping[int, str]) -> tuple[Transaction, list[m.Order]]:
        """Take up what another process left: ``branches`` were found prepared (number -> node); home is to be asked."""
        self = cls(gid)
        last = max(branches, default=-1)
        for number in range(last + 1):
            self.nodes.append(branches.get(number, ""))
            self.read_only.append(number not in branches)
            self.branches.append(BranchState.PREPARED if number in branches else BranchState.RELEASED)
        self.participants = dict(branches)
        self.phase = Phase.PROBING
        self.probed = True
        return self, [m.Probe()]

    @property
    def outcome(self) -> Outcome:
        """What may be told to the caller now."""
        if self.phase is Phase.COMMITTED and not self.left_over:
            return _COMMITTED
        strays = tuple([self.nodes[number] for number in self._numbers(BranchState.STRAYED)])
        # Not strict: a deadline asks from another thread, while a branch is enlisted perhaps.
        left = tuple([node for node, state in zip(self.nodes, self.branches, strict=False) if state not in _ENDED])
        match self.phase:
            case Phase.COMMITTING | Phase.COMMITTED:
                return Outcome(state="committed", pending=left, strays=strays)
            case Phase.ABORTING | Phase.ABORTED:
                return Outcome(state="aborted", pending=left, strays=strays, reason=self.reason)
            case _:
                return Outcome(state="unknown", pending=left, reason=self.reason)

    def take(self, fact: m.Fact) -> list[m.Order]:
        """Take in one fact and return what is to be done now. An illegal fact raises InvariantBroken and changes nothing."""
        kind = type(fact)
        phase = PHASES.get((self.phase, kind))
        if phase is None:
            raise InvariantBroken(f"{kind.__name__} cannot happen while {self.phase}", gid=self.gid)
        if (note := _NOTES.get(kind)) is not None:
            note(self, fact)
        if not self.reason:
            self.reason = getattr(fact, "reason", "")
        self.phase = phase
        orders: list[m.Order] = []
        while (rule := _RULES.get(phase)) is not None and (following := rule(self, orders)) is not phase:
            self.phase = phase = following
        return orders

    def _enlisted(self, fact: m.Enlisted) -> None:
        if fact.branch != len(self.branches):
            raise InvariantBroken("a branch was enlisted out of order", gid=self.gid)
        if fact.home and (self.home is not None or fact.read_only):
            raise InvariantBroken("a transaction has one home, and it writes", gid=self.gid)
        self.branches.append(BranchState.OPEN)
        self.nodes.append(fact.node)
        self.read_only.append(fact.read_only)
        if fact.home:
            self.home = fact.branch
        elif not fact.read_only:
            self.participants[fact.branch] = fact.node

    def _answered(self, fact: m.BranchFact) -> None:
        self._move(fact.branch, fact)

    def _decided(self, fact: m.DecisionDurable | m.DecisionConflict | m.DecisionFailed | m.DecisionLost) -> None:
        if self.home is None:
            raise InvariantBroken("a decision without home", gid=self.gid)
        self._move(self.home, fact)
        self.fenced = type(fact) is m.DecisionConflict

    def _found(self, fact: m.FoundCommitted | m.FoundAborted) -> None:
        self.fenced = type(fact) is m.FoundAborted
        if self.home is not None and self.branches[self.home] is BranchState.UNSURE:
            self._move(self.home, fact)

    def _silent(self, fact: m.HomeSilent) -> None:
        self.branches = [BranchState.OWED if state in _PROMISED else state for state in self.branches]

    def _move(self, branch: int, fact: m.Fact) -> None:
        state = self.branches[branch]
        following = BRANCHES.get((state, type(fact)))
        if following is None:
            raise InvariantBroken(f"{type(fact).__name__} cannot happen to a branch that is {state}", gid=self.gid)
        if state in ASKED:
            self.asked -= 1
        self.branches[branch] = following

    def _order(
        self, orders: list[m.Order], order: m.Prepare | m.Release | m.Decide | m.CommitBranch | m.RollbackBranch
    ) -> None:
        self.branches[order.branch] = ORDERED[type(order)]
        self.asked += 1
        orders.append(order)

    def _numbers(self, *states: BranchState) -> Sequence[int]:
        return [number for number, state in enumerate(self.branches) if state in states]

    def _hand_over_or(self, orders: list[m.Order], otherwise: m.Order | None) -> None:
        if BranchState.OWED in self.branches or BranchState.STRAYED in self.branches:
            self.left_over = True
            orders.append(m.HandOver())
        elif otherwise is not None:
            orders.append(otherwise)


def _preparing(tx: Transaction, orders: list[m.Order]) -> Phase:
    for number, state in enumerate(tx.branches):
        if state is BranchState.OPEN and number != tx.home:
            tx._order(orders, m.Release(branch=number) if tx.read_only[number] else m.Prepare(branch=number))
    if tx.asked:
        return Phase.PREPARING
    if tx.home is None:
        require(not tx.participants, "a transaction that writes needs a home")
        return Phase.COMMITTED
    tx._order(orders, m.Decide(branch=tx.home))
    return Phase.DECIDING


def _probing(tx: Transaction, orders: list[m.Order]) -> Phase:
    if not tx.probed:
        tx.probed = True
        orders.append(m.Probe())
    return Phase.PROBING


def _committing(tx: Transaction, orders: list[m.Order]) -> Phase:
    for number, state in enumerate(tx.branches):
        if state is BranchState.PREPARED:
            tx._order(orders, m.CommitBranch(branch=number))
    if tx.asked:
        return Phase.COMMITTING
    # A home that decided alone wrote its row complete at once.
    tx._hand_over_or(orders, m.Forget() if tx.participants else None)
    return Phase.COMMITTED


def _aborting(tx: Transaction, orders: list[m.Order]) -> Phase:
    for number in tx._numbers(BranchState.OPEN):
        tx._order(orders, m.RollbackBranch(branch=number, prepared=False))
    if tx.asked:
        return Phase.ABORTING
    promised = tx._numbers(*_PROMISED)
    if promised and not tx.fenced:
        if not tx.probed:
            tx.probed = True
            orders.append(m.Probe())
        return Phase.ABORTING
    for number in promised:
        tx._order(orders, m.RollbackBranch(branch=number, prepared=True))
    if promised:
        return Phase.ABORTING
    tx._hand_over_or(orders, None)
    return Phase.ABORTED


def _unknown(tx: Transaction, orders: list[m.Order]) -> Phase:
    orders.append(m.HandOver())
    return Phase.UNKNOWN


#: What each phase does by itself once the facts allow it: give orders, or go on to the next phase.
_RULES: Mapping[Phase, Callable[[Transaction, list[m.Order]], Phase]] = {
    Phase.PREPARING: _preparing,
    Phase.PROBING: _probing,
    Phase.COMMITTING: _committing,
    Phase.ABORTING: _aborting,
    Phase.UNKNOWN: _unknown,
}

#: What a fact changes in the books, before the rule of its phase is asked.
_NOTES: Mapping[type[m.Fact], Callable[[Transaction, Any], None]] = {
    m.Enlisted: Transaction._enlisted,
    m.DecisionDurable: Transaction._decided,
    m.DecisionConflict: Transaction._decided,
    m.DecisionFailed: Transaction._decided,
    m.DecisionLost: Transaction._decided,
    m.FoundCommitted: Transaction._found,
    m.FoundAborted: Transaction._found,
    m.HomeSilent: Transaction._silent,
    **dict.fromkeys(m.BRANCH_FACTS, Transaction._answered),
}
