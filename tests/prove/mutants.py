"""The protocol with one mistake in it: each mutant breaks one rule of the production code, which the proof runs as it is.

Python's own attributes are the seam. A mutant is switched on by its ``apply`` before a world is made, and off by the monkeypatch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from nodoubt.engine import performer, settle
from nodoubt.engine.performer import Performer
from nodoubt.engine.settle import AnsweredHome, Settler
from nodoubt.errors import NodeUnavailable
from nodoubt.nodes.contract import Ended, Listing, Node
from nodoubt.nodes.dialect import Session
from nodoubt.nodes.failures import StatementFailed
from nodoubt.nodes.sql import SqlNode
from nodoubt.protocol import messages as m
from nodoubt.protocol import states, transaction, verdicts
from nodoubt.protocol.ids import BranchId
from nodoubt.protocol.states import BranchState, Phase
from nodoubt.protocol.transaction import Transaction
from nodoubt.protocol.verdicts import Action, HomeSays
from nodoubt.prove import databases
from nodoubt.prove.explorer import Scope
from nodoubt.prove.wire import SteppedDialect

Patch = pytest.MonkeyPatch
SMALL = Scope(branches=2, settlers=1)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A mistake, the smallest world that shows it, and a part of the invariant that breaks there."""

    name: str
    apply: Callable[[Patch], None]
    breaks: str
    scope: Scope = field(default=SMALL)


def _phases(changes: Mapping[tuple[Phase, type[m.Fact]], Phase]) -> Callable[[Patch], None]:
    def apply(patch: Patch) -> None:
        patch.setattr(transaction, "PHASES", {**states.PHASES, **changes})

    return apply


def _branches(patch: Patch, changes: Mapping[tuple[BranchState, type[m.Fact]], BranchState]) -> None:
    patch.setattr(transaction, "BRANCHES", {**states.BRANCHES, **changes})


def _rule(phase: Phase, rule: Callable[[Transaction, list[m.Order]], Phase]) -> Callable[[Patch], None]:
    def apply(patch: Patch) -> None:
        patch.setattr(transaction, "_RULES", {**transaction._RULES, phase: rule})

    return apply


def commit_before_decision(tx: Transaction, orders: list[m.Order]) -> Phase:
    following = transaction._preparing(tx, orders)
    if following is Phase.DECIDING:
        for number in tx._numbers(BranchState.PREPARED):
            tx._order(orders, m.CommitBranch(branch=number))
    return following


def decide_without_votes(tx: Transaction, orders: list[m.Order]) -> Phase:
    following = transaction._preparing(tx, orders)
    if following is Phase.PREPARING and tx.home is not None and BranchState.OPEN is tx.branches[tx.home]:
        tx._order(orders, m.Decide(branch=tx.home))
        return Phase.DECIDING
    return following


def no_tombstone(tx: Transaction, orders: list[m.Order]) -> Phase:
    tx.fenced = True
    return transaction._aborting(tx, orders)


def lost_decision_is_commit(patch: Patch) -> None:
    _phases({(Phase.DECIDING, m.DecisionLost): Phase.COMMITTING})(patch)
    _branches(patch, {(BranchState.DECIDING, m.DecisionLost): BranchState.COMMITTED})


def lost_decision_is_abort(patch: Patch) -> None:
    _phases({(Phase.DECIDING, m.DecisionLost): Phase.ABORTING})(patch)
    _branches(patch, {(BranchState.DECIDING, m.DecisionLost): BranchState.ROLLED_BACK})
    _rule(Phase.ABORTING, no_tombstone)(patch)


def conflict_is_commit(patch: Patch) -> None:
    _phases({(Phase.DECIDING, m.DecisionConflict): Phase.COMMITTING})(patch)
    _branches(patch, {(BranchState.DECIDING, m.DecisionConflict): BranchState.COMMITTED})


def _prepared(branch: int) -> m.Fact:
    return m.Prepared(branch=branch)


def _committed(branch: int) -> m.Fact:
    return m.BranchCommitted(branch=branch)


def _answered(order: str, was: type[m.Fact], becomes: Callable[[int], m.Fact]) -> Callable[[Patch], None]:
    """The performer takes one fact for another."""
    real = getattr(Performer, f"_{order}")

    async def perform(self: Performer, given: Any) -> m.Fact:
        fact: m.Fact = await real(self, given)
        return becomes(given.branch) if isinstance(fact, was) else fact

    def apply(patch: Patch) -> None:
        table = {asked: perform if known is real else known for asked, known in performer._PERFORM.items()}
        patch.setattr(performer, "_PERFORM", table)

    return apply


def not_found_is_done(patch: Patch) -> None:
    async def finish(self: SqlNode, session: Session, branch: BranchId, commit: bool, owner: str) -> Ended:
        try:
            await session.command(self.dialect.finish(branch, commit=commit))
        except StatementFailed:
            return Ended.DONE
        return Ended.DONE

    patch.setattr(SqlNode, "_finish", finish)


def lists_before_decisions(patch: Patch) -> None:
    unfinished, listed = Settler._unfinished, Settler._listed
    early: dict[int, Any] = {}

    async def first(self: Settler, report: Any) -> Any:
        early[id(self)] = await listed(self, report)
        return await unfinished(self, report)

    async def second(self: Settler, report: Any) -> Any:
        return early.pop(id(self))

    patch.setattr(Settler, "_unfinished", first)
    patch.setattr(Settler, "_listed", second)


def home_is_read_not_probed(patch: Patch) -> None:
    real = Settler._ask_homes

    async def ask(self: Settler, cases: Any, *, probing: bool) -> None:
        await real(self, cases, probing=False)

    patch.setattr(Settler, "_ask_homes", ask)


def failed_list_is_empty(patch: Patch) -> None:
    real = SqlNode.prepared

    async def prepared(self: SqlNode) -> Listing:
        try:
            return await real(self)
        except NodeUnavailable:
            return Listing(ours=())

    patch.setattr(SqlNode, "prepared", prepared)


def _home_says(was: HomeSays, becomes: HomeSays) -> Callable[[Patch], None]:
    """Settling takes one answer of home for another."""

    class Mistaken(AnsweredHome):
        def __init__(self, home: Node, says: HomeSays) -> None:
            super().__init__(home, becomes if says is was else says)

    def apply(patch: Patch) -> None:
        real = Settler._judge

        def judge(self: Settler, case: Any, *rest: Any) -> None:
            case.says = becomes if case.says is was else case.says
            real(self, case, *rest)

        patch.setattr(Settler, "_judge", judge)
        patch.setattr(settle, "AnsweredHome", Mistaken)

    return apply


def owner_takes_busy_for_abort(patch: Patch) -> None:
    real = performer.probe_one

    async def probe(home: Node | None, gid: str, in_time: Callable[[], bool]) -> HomeSays:
        says = await real(home, gid, in_time)
        return HomeSays.ABORTED if says is HomeSays.BUSY else says

    patch.setattr(performer, "probe_one", probe)


def _case(label: str, action: Action) -> Callable[[Patch], None]:
    """One row of the verdict table says something else."""

    def apply(patch: Patch) -> None:
        changed = [replace(case, action=action) if case.label == label else case for case in verdicts.VERDICTS]
        patch.setattr(verdicts, "VERDICTS", tuple(changed))

    return apply


def _property(name: str, value: Callable[[Any], bool]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(settle._Case, name, property(value))


def evidence_before_completion(patch: Patch) -> None:
    async def complete(nodes: Mapping[str, Node], home: str, finished: Mapping[str, Mapping[int, str]]) -> None:
        for participants in finished.values():
            for node in participants.values():
                await nodes[node].drop_evidence(list(finished))
        await nodes[home].complete(list(finished))

    patch.setattr(settle, "complete", complete)


def tag_not_checked(patch: Patch) -> None:
    patch.setattr(SteppedDialect, "prepared_tag", "")
    patch.setattr(SteppedDialect, "decided_tag", "")


def no_session_limit(patch: Patch) -> None:
    patch.setattr(databases, "is_old", lambda truth: truth.row in ("complete", "aborted"))


def expired_is_reported(patch: Patch) -> None:
    """Of a home that takes tombstones that come too late: where the first line of defence is gone there is a second."""

    async def of_settlers(self: Performer, order: m.Probe) -> m.Fact:
        return await Performer._probe(self, order) if self.adopted else m.HomeSilent(reason="the owner does not ask")

    patch.setattr(databases, "is_forgotten", lambda truth: False)
    patch.setitem(performer._PERFORM, m.Probe, of_settlers)
    _case("expired", Action.REPORT)(patch)


def purge_what_is_open(patch: Patch) -> None:
    patch.setattr(databases, "is_old", lambda truth: truth.row == "committed")


def evidence_is_not_asked(patch: Patch) -> None:
    async def applied(self: SqlNode, branches: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        return set()

    patch.setattr(SqlNode, "applied", applied)


MUTANTS = (
    Mutant(
        name="commit before the decision is durable",
        apply=_rule(Phase.PREPARING, commit_before_decision),
        breaks="rule 2",
    ),
    Mutant(name="decide before all have voted", apply=_rule(Phase.PREPARING, decide_without_votes), breaks="atomicity"),
    Mutant(name="no tombstone before a roll-back", apply=_rule(Phase.ABORTING, no_tombstone), breaks="rule 2"),
    Mutant(name="lost decision read as committed", apply=lost_decision_is_commit, breaks="decision is not"),
    Mutant(name="lost decision read as aborted", apply=lost_decision_is_abort, breaks="rule 2"),
    Mutant(name="conflict read as committed", apply=conflict_is_commit, breaks="decision is not"),
    Mutant(
        name="lost PREPARE read as a promise", apply=_answered("prepare", m.PrepareLost, _prepared), breaks="atomicity"
    ),
    Mutant(
        name="refused PREPARE read as a promise", apply=_answered("prepare", m.Refused, _prepared), breaks="atomicity"
    ),
    Mutant(name="lost COMMIT read as done", apply=_answered("commit", m.BranchOwed, _committed), breaks="rule 7"),
    Mutant(name="tag not checked", apply=tag_not_checked, breaks="atomicity"),
    Mutant(
        name="not found read as done",
        apply=not_found_is_done,
        breaks="rule 7",
        scope=Scope(branches=2, settlers=1, attached=True),
    ),
    Mutant(name="lists read before decisions", apply=lists_before_decisions, breaks="rolled-back-by-hand"),
    Mutant(name="home read without a tombstone", apply=home_is_read_not_probed, breaks="rule 2"),
    Mutant(name="failed list read as empty", apply=failed_list_is_empty, breaks="rolled-back-by-hand"),
    Mutant(
        name="age taken as truth: silent home means aborted",
        apply=_home_says(HomeSays.SILENT, HomeSays.ABORTED),
        breaks="rule 2",
    ),
    Mutant(
        name="settler takes a committer at work for aborted",
        apply=_home_says(HomeSays.BUSY, HomeSays.ABORTED),
        breaks="rule 2",
    ),
    Mutant(name="owner takes a committer at work for aborted", apply=owner_takes_busy_for_abort, breaks="rule 2"),
    Mutant(
        name="home not read again for suspects",
        apply=_property("is_suspect", lambda case: False),
        breaks="rolled-back-by-hand",
    ),
    Mutant(
        name="complete while branches are owed",
        apply=_property("is_complete", lambda case: case.row is not None and case.says is HomeSays.COMMITTED),
        breaks="rule 7",
    ),
    Mutant(name="evidence dropped before completion", apply=evidence_before_completion, breaks="evidence was dropped"),
    Mutant(name="evidence not read", apply=evidence_is_not_asked, breaks="rolled-back-by-hand"),
    Mutant(
        name="prepared branch left behind a tombstone",
        apply=_case("roll-back", Action.WAIT),
        breaks="nothing can be settled",
    ),
    Mutant(
        name="prepared branch left behind a decision",
        apply=_case("commit", Action.WAIT),
        breaks="nothing can be settled",
    ),
    Mutant(
        name="tombstone taken after hours asleep",
        apply=lambda patch: patch.setattr(databases, "is_forgotten", lambda truth: False),
        breaks="told aborted, and it is committed",
    ),
    Mutant(name="fresh tombstone trusted after purge", apply=expired_is_reported, breaks="branch 1: roll-back"),
    Mutant(name="tombstone purged while sessions live", apply=no_session_limit, breaks="rule 7"),
    Mutant(name="open decision purged", apply=purge_what_is_open, breaks="rule 7"),
)
