"""Everything that is said to the machine (facts, past tense) and by it (orders, imperative).

All are frozen and never subclassed. What a fact about a database may be based on stands beside it: the machine believes what
it is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args


@dataclass(frozen=True, slots=True, kw_only=True)
class Enlisted:
    """A branch was opened on a node; branches are numbered from 0 in this order. Exactly one writer is home."""

    branch: int
    node: str
    read_only: bool = False
    home: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRequested:
    """The caller left the block without an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortRequested:
    """The caller rolled back, an exception left the block, a guard rail was broken, or the time is over."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Vote yes: the node answered that the branch survives a crash and can be committed."""

    branch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """A read-only branch ended cleanly: it has no part in the decision any more."""

    branch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Vote no: the branch is rolled back and can never be prepared, by the node's own definite answer."""

    branch: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareLost:
    """Vote unknown: PREPARE was sent and its answer lost. The branch may be prepared now, later or never."""

    branch: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionDurable:
    """Home answered that the decision row is committed and forced to disk. This is the commit point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionConflict:
    """Home answered that the key exists: a recoverer's tombstone was first. Home's branch is rolled back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionFailed:
    """Home answered definitely that its commit did not happen. Home's branch is rolled back."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionLost:
    """The decision was sent and its answer lost."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCommitted:
    """A probe read a durable committed decision at home."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundAborted:
    """A probe read or inserted a durable tombstone at home: nobody can ever commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeSilent:
    """Probing was given up for now: home is unreachable, or a committer still holds the key."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchCommitted:
    """The node answered, or evidence in it shows, that the branch's work is committed."""

    branch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchRolledBack:
    """The branch's work is gone, and the branch can no longer become prepared unless a tombstone stands against it."""

    branch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchStrayed:
    """Evidence shows that somebody outside nodoubt finished the branch against the decision."""

    branch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchOwed:
    """The branch could not be finished now: node unreachable, or still attached to a session. The settler goes on."""

    branch: int
    reason: str


#: What a node says of one branch.
BranchFact = (
    Prepared | Released | Refused | PrepareLost | BranchCommitted | BranchRolledBack | BranchStrayed | BranchOwed
)
BRANCH_FACTS = get_args(BranchFact)

Fact = (
    Enlisted
    | CommitRequested
    | AbortRequested
    | Prepared
    | Released
    | Refused
    | PrepareLost
    | DecisionDurable
    | DecisionConflict
    | DecisionFailed
    | DecisionLost
    | FoundCommitted
    | FoundAborted
    | HomeSilent
    | BranchCommitted
    | BranchRolledBack
    | BranchStrayed
    | BranchOwed
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Make the branch promise. Answers: Prepared, Refused, PrepareLost."""

    branch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """End a read-only branch. Answers: Released, Refused."""

    branch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decide:
    """Commit home's branch with the decision row in it. Answers: DecisionDurable, -Conflict, -Failed, -Lost."""

    branch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Ask home, inserting a tombstone if it holds nothing. Answers: FoundCommitted, FoundAborted, HomeSilent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitBranch:
    """Commit a prepared branch. Answers: BranchCommitted, BranchStrayed, BranchOwed."""

    branch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackBranch:
    """Undo a branch. Answers: BranchRolledBack; if it may be prepared, also BranchStrayed or BranchOwed."""

    branch: int
    prepared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """Every branch is finished: the decision row may be marked complete, at any later time. No answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver:
    """Something is left to do: the settler of any process goes on with it. No answer."""


Order = Prepare | Release | Decide | Probe | CommitBranch | RollbackBranch | Forget | HandOver
