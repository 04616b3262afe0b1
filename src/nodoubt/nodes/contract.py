"""The contract between the engine and a node.

**The order of calls.** ``Node.open`` once. For each transaction that enlists the node, ``Node.begin`` gives a :class:`Branch`;
the user works on ``branch.connection``. Then exactly one of these stories, in which every step is called at most once:

- home:           ``decide`` -> yes, no, conflict or unknown; or ``roll_back(prepared=False)``
- read-only:      ``release`` -> yes or no; or ``roll_back(prepared=False)``
- any other:      ``prepare`` -> no; or yes and then ``commit`` or ``roll_back(prepared=True)``;
                  or unknown and then ``roll_back(prepared=True)``; or ``roll_back(prepared=False)`` without a prepare

``abandon`` may come at any moment, from any thread; afterwards every step answers no or unknown, truthfully, and soon.

**Answers.** *Yes* is a promise that survives ``kill -9`` and power loss. *No* says that the branch is rolled back and cannot
come back. Everything else is *unknown*: lost connections, time-outs, answers that were not understood. A step never raises for
what a database said or failed to say; it raises only for bugs.

**Evidence.** A branch that is prepared carries a row ``(gid, branch)`` in its own database, so that after it is gone its
end can be told from inside that database. A decision row at home binds all branches, and its unique key is the only arbiter.

**Isolation.** ``Node.begin`` is told the terms of the branch. A *snapshot* branch has its connection when ``begin``
returns, and sees nothing before ``Branch.take_snapshot`` or ``Glancing.glance``. A *serializable* one keeps what it read as
it was read, until the step that ends it. ``Node.close_gate`` keeps home from deciding: snapshots of several nodes that are
taken while the gates of all homes are closed show one instant. So do those of nodes that stand still until all are taken.

**Recovery calls** come from any process at any time, also for branches of processes long dead.

The conformance suite in ``nodoubt.testing.conformance`` checks an adapter against this page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from nodoubt.errors import NodoubtError
from nodoubt.protocol.ids import BranchId
from nodoubt.protocol.verdicts import HomeSays


class Said(StrEnum):
    """A node's answer to prepare, release or decide."""

    YES = "yes"
    NO = "no"
    CONFLICT = "conflict"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was said, and for anything but yes, why; ``error`` is the driver's own."""

    said: Said
    reason: str = ""
    retryable: bool = False
    error: BaseException | None = None


YES = Answer(said=Said.YES)


class Ended(StrEnum):
    """What a node says when it is told to finish a branch."""

    DONE = "finished now, as told"
    APPLIED = "no such prepared branch, and its work is committed"
    ABSENT = "no such prepared branch, and its work is not there"
    OWED = "not now: unreachable, or still attached to a session"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an adapter can do: declared, never found out by catching."""

    #: Can hold decision rows, forced to disk.
    home: bool
    #: A prepared branch is free of the session that prepared it.
    detached: bool
    #: Several branches of different transactions can be open at once. Where not, an open branch that may write is the gate.
    concurrent: bool
    #: A snapshot can be opened by several connections.
    shares_snapshots: bool = False
    #: The gate is kept closed by one opener at a time, and the others wait for it.
    exclusive_gate: bool = False
    #: A branch knows whether its node stood still since its snapshot was taken.
    tells_stillness: bool = False


class Isolation(StrEnum):
    """What a transaction asks of all its nodes together."""

    ATOMIC = "atomic"
    SNAPSHOT = "snapshot"
    SERIALIZABLE = "serializable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A name that stands for data, to be locked by those who read (``shared``) or write it."""

    name: str
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a branch is opened for.

    ``keys`` are those of a serializable transaction, in the order in which everybody locks them; without any it locks the
    whole domain, where a node has no locks of its own for what is read. ``lock_wait_s`` bounds each wait for a lock, its own
    and those of the user's statements. ``export`` is what :meth:`Branch.export` of another snapshot branch gave: share that one.
    """

    isolation: Isolation = Isolation.ATOMIC
    keys: tuple[Key, ...] = ()
    lock_wait_s: float = 0.0
    export: str = ""


#: Each node at its own level.
ATOMIC = Terms()


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedBranch:
    """A branch that a node lists as prepared. ``age_s`` is by the node's own clock; it only says when to try.

    ``ownerless``: the node knows that the session that prepared it is gone, so nobody need be given time to finish it.
    """

    id: BranchId
    age_s: float
    ownerless: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The prepared branches of our domain on one node, and how many others it holds."""

    ours: tuple[PreparedBranch, ...]
    foreign: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow:
    """A row of home's table of decisions. ``participants`` maps branch numbers to nodes.

    Of a row that cannot be read, ``raw`` has the texts of its decision and participants, and ``participants`` what could
    be read of them.
    """

    gid: str
    says: HomeSays
    participants: Mapping[int, str] = field(default_factory=dict)
    age_s: float = 0.0
    reason: str = ""
    raw: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of ``nodoubt doctor``. ``level`` is ``ok``, ``warning`` or ``error``; ``fix`` says what to do.

    ``fact`` is the bare fact behind the text, for whoever can compare it: of ``identity`` the random id, of ``clock`` the
    node's seconds since 1970, of ``prepared`` how many branches can still be prepared, of ``durable`` that it is a ``standby``.
    """

    check: str
    level: str
    text: str
    fix: str = ""
    fact: str | int | float | None = None


class Branch(Protocol):
    """One transaction's part on one node. See the module's text for the order of calls."""

    @property
    def connection(self) -> Any:
        """The driver's own connection, guarded, for the user."""

    @property
    def misuse(self) -> NodoubtError | None:
        """The guard rail that the user broke on this connection, if any, a statement that still runs included: the transaction
        must abort."""

    def is_retryable(self, error: BaseException) -> bool:
        """Whether this is the error of a statement of this branch that says that the same work may succeed another time."""

    def fence(self, error: BaseException | None = None) -> None:
        """Make the user's connection unusable at once: every further use raises ``error``, or that the block is over."""

    def abandon(self) -> None:
        """Cut the session off without waiting. What was sent and not answered is unknown."""

    def hand_over(self) -> None:
        """The transaction is over here: give up whatever is still held. A promise stands, and the settler will find it."""

    async def begin_now(self) -> None:
        """As home, before any branch is prepared: be a transaction that the server ends if this process stops for too long.

        A BEGIN that waits for a first statement would let it decide when its tombstone was purged. Raises NodeUnavailable.
        """

    async def prepare(self) -> Answer:
        """Vote: yes, no or unknown."""

    async def release(self) -> Answer:
        """End a read-only branch: yes or no."""

    async def decide(self, participants: Mapping[int, str]) -> Answer:
        """Commit with the decision row: yes, no, conflict or unknown. A row without participants is complete at once."""

    async def commit(self) -> Ended:
        """Commit the prepared branch."""

    async def roll_back(self, *, prepared: bool) -> Ended:
        """Undo the branch; if it cannot be prepared the answer is always ``DONE``."""

    async def take_snapshot(self) -> None:
        """See from now on what is committed now. Called once, behind ``begin`` on such terms or behind ``glance``.

        Where an open branch that may write is the gate, there is nothing to do for one. Raises NodeUnavailable.
        """

    async def export(self) -> str:
        """What opens the snapshot of this branch for another one, while this one is open. Raises NodeUnavailable.

        Asked only where ``shares_snapshots`` is declared.
        """


class Glance(StrEnum):
    """What a node says of the moment of a snapshot."""

    BUSY = "somebody was at work, or had prepared a branch"
    QUIET = "nobody was"
    UNMOVED = (
        "nobody was, and nothing was prepared or committed since a glance of an earlier transaction of this session"
    )


class Glancing(Branch, Protocol):
    """A branch of a node that declares ``tells_stillness``. What it says may be too cautious, and never too bold."""

    async def glance(self) -> Glance:
        """Take a snapshot. Called at most once, instead of ``take_snapshot`` or before it. Raises NodeUnavailable."""

    async def is_still(self) -> bool:
        """Whether nothing was prepared or committed since a glance that was not busy. Raises NodeUnavailable."""


class Gate(Protocol):
    """Home's gate, closed. A gate whose holder is gone opens by itself, at the latest after :data:`GATE_S_MAX`."""

    async def prepared(self) -> Listing:
        """As the node's, without having to wait for a connection that somebody else may have. Raises NodeUnavailable."""

    async def committed(self, gids: Sequence[str]) -> set[str]:
        """Those that are decided to commit, forced to disk. Raises NodeUnavailable."""

    async def reopen(self) -> None:
        """Let decisions through again. Raises NodeUnavailable if the gate may have been open for a moment before.

        It never waits long, and whatever it raises, the gate is open, or will be within :data:`GATE_S_MAX`.
        """


#: No holder that stops in the middle keeps a gate closed for longer, where a server can tell.
GATE_S_MAX = 2.0


#: How long a probe may be under way: no step of recovery takes longer.
PROBE_S_MAX = 30.0


def always() -> bool:
    """What is probed for cannot have been purged."""
    return True


class Node(Protocol):
    """A configured, named database."""

    name: str
    kind: str
    capabilities: Capabilities

    @property
    def home_refusal(self) -> str:
        """Why no branch of a new transaction may write here, home's or another's; "" where it may. Known once opened."""

    async def open(self) -> None:
        """Connect, check identity and settings. Raises ConfigError or NodeUnavailable."""

    async def check_durable(self) -> None:
        """Ask again whether the server forces its commits, as ``home_refusal`` says. Raises NodeUnavailable."""

    async def close(self) -> None:
        """Close every connection. Prepared branches stay."""

    async def begin(self, branch: BranchId, *, read_only: bool, is_home: bool, terms: Terms = ATOMIC) -> Branch:
        """Open a branch on a pooled session. Raises NodeUnavailable, which is retryable when a lock was waited for in vain."""

    def refusal(self, isolation: Isolation, *, read_only: bool) -> str:
        """Why a branch of that isolation cannot be had here; "" where it can. Known once opened."""

    async def close_gate(self, wait_s: float) -> Gate:
        """As home: wait for those who decide at this moment, and keep all others from it until the gate is opened again.

        Unless ``exclusive_gate`` is declared, several openers may keep it closed together; but one that comes later may have to
        wait for those who wait to decide. So whoever closes several gates closes one after the other, in the order of their
        nodes' names. What was decided before is visible to every statement that begins after this returned. Raises
        NodeUnavailable, retryable, when somebody who decides, or another opener, did not come to an end in ``wait_s``.
        """

    async def prepared(self) -> Listing:
        """List all prepared branches, or raise NodeUnavailable: a partial list is none."""

    async def applied(self, branches: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        """Those of the (gid, branch) pairs whose evidence is here. Raises NodeUnavailable."""

    async def finish(self, branch: BranchId, *, commit: bool) -> Ended:
        """Finish a branch that somebody else prepared. With ``commit=False`` a tombstone stands at home."""

    async def probe(self, gids: Sequence[str], in_time: Callable[[], bool] = always) -> Mapping[str, HomeSays]:
        """As home: read each decision, inserting a tombstone where there is none; forced to disk before it returns.

        Raises NodeUnavailable. A key that a committer holds for longer than a short lock time-out is ``BUSY``.

        A tombstone for what was committed and purged would be a lie. So ``in_time`` is asked when nothing else is left to wait
        for, and where it says no, or the tombstones come to home's data more than :data:`PROBE_S_MAX` behind that by home's own
        clock, none is inserted, and NodeUnavailable is raised.
        """

    async def decisions(self, gids: Sequence[str]) -> Mapping[str, DecisionRow]:
        """As home: read decisions without inserting anything. Raises NodeUnavailable."""

    async def unfinished(self, limit: int) -> Sequence[DecisionRow]:
        """As home: the oldest decisions that are neither complete nor aborted: those that cannot be read, too.

        Raises NodeUnavailable.
        """

    async def complete(self, gids: Sequence[str]) -> None:
        """As home: mark decisions complete, forced to disk. Raises NodeUnavailable."""

    async def drop_evidence(self, gids: Sequence[str]) -> None:
        """Delete the evidence of transactions whose decisions are complete. Raises NodeUnavailable."""

    async def old_evidence(self, before_gid: str, limit: int) -> Sequence[str]:
        """The gids of the evidence here that is older than a gid, youngest first: the last one leads to the next page.

        Raises NodeUnavailable.
        """

    async def purge(self, before_gid: str, retention_s: float, limit: int) -> int:
        """As home: delete up to ``limit`` complete rows and tombstones; returns how many.

        Only rows that became so longer than ``retention_s`` ago by the node's own clock, so that whoever saw a branch prepared
        has that long to probe; ``before_gid`` merely narrows the search.
        """

    async def resolve(self, gid: str, *, commit: bool, reason: str) -> HomeSays:
        """As home: write a decision by a person's order, forced to disk; returns what stands. Raises NodeUnavailable.

        A decision that can be read is left as it is. One that cannot is replaced, and its text kept in the reason.
        """

    async def inspect(self) -> Sequence[Finding]:
        """Look at everything that ``nodoubt doctor`` reports of this node; never raises for what it finds."""

    async def install(self) -> str:
        """Create or migrate our tables and write the identity row; returns what was done. Raises ConfigError."""

    def ddl(self) -> str:
        """The statements that :meth:`install` would run on an empty database, for people with migrations."""


def may_be_home(node: Node) -> bool:
    """Whether new transactions may have their home there. Decisions that it holds already are read in any case."""
    return node.capabilities.home and not node.home_refusal


@runtime_checkable
class Hurried(Protocol):
    """A node on which a branch in doubt keeps every other branch waiting: it asks for settling without delay.

    The engine sets ``hurry``, to be called with the branch in doubt, whose owner is known to be gone, and the gid of the
    transaction that it stands in the way of. It says whether that transaction may wait; if not, it must give up at once. It
    may be called from any task or thread of the engine's world, and never blocks.
    """

    hurry: Callable[[BranchId, str], bool]
