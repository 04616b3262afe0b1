"""The legal order of things, as data: which fact may arrive in which phase, and where it leads.

The tables drive the machine, the diagram in the docs and the tests. What is not in a table breaks an invariant.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from nodoubt.protocol import messages as m


class Phase(StrEnum):
    """Where the whole transaction stands."""

    ACTIVE = "active"
    PREPARING = "preparing"
    DECIDING = "deciding"
    PROBING = "probing"
    COMMITTING = "committing"
    ABORTING = "aborting"
    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


class BranchState(StrEnum):
    """Where one branch stands."""

    OPEN = "open"
    RELEASING = "releasing"
    PREPARING = "preparing"
    PREPARED = "prepared"
    UNSURE = "unsure"
    DECIDING = "deciding"
    COMMITTING = "committing"
    ROLLING_BACK = "rolling back"
    RELEASED = "released"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    STRAYED = "strayed"
    OWED = "owed"


#: Nothing more happens in these.
ENDED = frozenset({Phase.COMMITTED, Phase.ABORTED, Phase.UNKNOWN})
#: The branch waits for an answer of its node in these.
ASKED = frozenset(
    {
        BranchState.RELEASING,
        BranchState.PREPARING,
        BranchState.DECIDING,
        BranchState.COMMITTING,
        BranchState.ROLLING_BACK,
    }
)

#: (phase, fact) -> phase. A request to abort is legal everywhere and changes nothing once the decision was sent:
#: after that only home knows.
PHASES: Mapping[tuple[Phase, type[m.Fact]], Phase] = {
    (Phase.ACTIVE, m.Enlisted): Phase.ACTIVE,
    (Phase.ACTIVE, m.CommitRequested): Phase.PREPARING,
    (Phase.ACTIVE, m.AbortRequested): Phase.ABORTING,
    (Phase.PREPARING, m.Prepared): Phase.PREPARING,
    (Phase.PREPARING, m.Released): Phase.PREPARING,
    (Phase.PREPARING, m.Refused): Phase.ABORTING,
    (Phase.PREPARING, m.PrepareLost): Phase.ABORTING,
    (Phase.PREPARING, m.AbortRequested): Phase.ABORTING,
    (Phase.DECIDING, m.DecisionDurable): Phase.COMMITTING,
    (Phase.DECIDING, m.DecisionConflict): Phase.ABORTING,
    (Phase.DECIDING, m.DecisionFailed): Phase.ABORTING,
    (Phase.DECIDING, m.DecisionLost): Phase.PROBING,
    (Phase.DECIDING, m.AbortRequested): Phase.DECIDING,
    (Phase.PROBING, m.FoundCommitted): Phase.COMMITTING,
    (Phase.PROBING, m.FoundAborted): Phase.ABORTING,
    (Phase.PROBING, m.HomeSilent): Phase.UNKNOWN,
    (Phase.PROBING, m.AbortRequested): Phase.PROBING,
    (Phase.COMMITTING, m.BranchCommitted): Phase.COMMITTING,
    (Phase.COMMITTING, m.BranchStrayed): Phase.COMMITTING,
    (Phase.COMMITTING, m.BranchOwed): Phase.COMMITTING,
    (Phase.COMMITTING, m.AbortRequested): Phase.COMMITTING,
    # Votes that were under way when the abort began still arrive.
    (Phase.ABORTING, m.Prepared): Phase.ABORTING,
    (Phase.ABORTING, m.Released): Phase.ABORTING,
    (Phase.ABORTING, m.Refused): Phase.ABORTING,
    (Phase.ABORTING, m.PrepareLost): Phase.ABORTING,
    (Phase.ABORTING, m.FoundAborted): Phase.ABORTING,
    (Phase.ABORTING, m.HomeSilent): Phase.ABORTING,
    (Phase.ABORTING, m.BranchRolledBack): Phase.ABORTING,
    (Phase.ABORTING, m.BranchStrayed): Phase.ABORTING,
    (Phase.ABORTING, m.BranchOwed): Phase.ABORTING,
    (Phase.ABORTING, m.AbortRequested): Phase.ABORTING,
    (Phase.COMMITTED, m.AbortRequested): Phase.COMMITTED,
    (Phase.ABORTED, m.AbortRequested): Phase.ABORTED,
    (Phase.UNKNOWN, m.AbortRequested): Phase.UNKNOWN,
}

#: (branch state, fact about that branch) -> branch state. Facts about the decision concern home's branch.
BRANCHES: Mapping[tuple[BranchState, type[m.Fact]], BranchState] = {
    (BranchState.RELEASING, m.Released): BranchState.RELEASED,
    (BranchState.RELEASING, m.Refused): BranchState.ROLLED_BACK,
    (BranchState.PREPARING, m.Prepared): BranchState.PREPARED,
    (BranchState.PREPARING, m.Refused): BranchState.ROLLED_BACK,
    (BranchState.PREPARING, m.PrepareLost): BranchState.UNSURE,
    (BranchState.DECIDING, m.DecisionDurable): BranchState.COMMITTED,
    (BranchState.DECIDING, m.DecisionConflict): BranchState.ROLLED_BACK,
    (BranchState.DECIDING, m.DecisionFailed): BranchState.ROLLED_BACK,
    (BranchState.DECIDING, m.DecisionLost): BranchState.UNSURE,
    (BranchState.UNSURE, m.FoundCommitted): BranchState.COMMITTED,
    (BranchState.UNSURE, m.FoundAborted): BranchState.ROLLED_BACK,
    (BranchState.UNSURE, m.HomeSilent): BranchState.OWED,
    (BranchState.COMMITTING, m.BranchCommitted): BranchState.COMMITTED,
    (BranchState.COMMITTING, m.BranchStrayed): BranchState.STRAYED,
    (BranchState.COMMITTING, m.BranchOwed): BranchState.OWED,
    (BranchState.ROLLING_BACK, m.BranchRolledBack): BranchState.ROLLED_BACK,
    (BranchState.ROLLING_BACK, m.BranchStrayed): BranchState.STRAYED,
    (BranchState.ROLLING_BACK, m.BranchOwed): BranchState.OWED,
}

#: What giving an order does to the branch that it names.
ORDERED: Mapping[type[m.Order], BranchState] = {
    m.Prepare: BranchState.PREPARING,
    m.Release: BranchState.RELEASING,
    m.Decide: BranchState.DECIDING,
    m.CommitBranch: BranchState.COMMITTING,
    m.RollbackBranch: BranchState.ROLLING_BACK,
}
