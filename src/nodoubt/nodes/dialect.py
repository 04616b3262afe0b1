"""What a database server's adapter is made of: a dialect (knowledge) and a driver (carriage). Protocols and settings only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from nodoubt.nodes.contract import Capabilities, DecisionRow, Finding, Glance, Isolation, Listing, Terms
from nodoubt.nodes.failures import StatementFailed
from nodoubt.nodes.guard import BranchConnection, Guard
from nodoubt.nodes.statements import Rules
from nodoubt.protocol.ids import BranchId
from nodoubt.protocol.verdicts import HomeSays

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What can be set for one node. Times are in seconds."""

    url: str
    #: Connections for transactions of this process, at most.
    pool_size: int = 20
    #: How long a transaction waits for one of them.
    acquire_timeout_s: float = 10.0
    connect_timeout_s: float = 5.0
    #: Further connections for recovery, so that a full pool cannot keep branches in doubt.
    settle_connections: int = 8
    #: How long a probe waits for a committer that holds the key.
    lock_timeout_s: float = 2.0
    #: The server ends our sessions that idle in a transaction for longer: no zombie can outlive its tombstone.
    session_limit_s: float = 600.0
    #: Driver options that the URL cannot carry.
    options: Mapping[str, Any] = field(default_factory=dict)


class Session(Protocol):
    """One connection of a driver, as a node needs it. Raises only StatementFailed and ConnectionLost."""

    token: str
    #: What the dialect must know to end this session from another one.
    handle: str
    #: What the dialect has set in this session for the terms of a branch, and what outlasts that branch.
    tuning: str = ""
    #: The id of the server's process as it was told at login; 0 where the driver does not tell.
    announced: int = 0

    def begin_later(self, sql: str) -> bool:
        """Keep a BEGIN for the packet of the first statement; False if the driver cannot. Raises ConnectionLost."""
        return False

    async def begin_now(self) -> None:
        """Send a BEGIN that was kept. Raises as ``command`` does."""
        return

    def fence(self) -> None:
        """What the driver made for the user is dead from now on, as far as it does not ask the guard."""
        return

    async def command(self, sql: str) -> str:
        """Send a text of one or more statements in one packet; return the tag of the last. No guard looks at it."""

    async def query(self, sql: str) -> Sequence[Row]:
        """Send one statement and fetch its rows; on MariaDB and MySQL a text of several, and those of the last that has any."""

    def bind(self, guard: Guard) -> BranchConnection:
        """Open the connection to a user under a guard."""

    def unbind(self) -> None:
        """Take it away again."""

    def is_outside(self) -> bool:
        """Whether the server's last answer said that no transaction is open, where the driver does not look by itself."""
        return False

    def abandon(self) -> None:
        """Cut the connection without waiting; callable from any thread, also while a command runs."""

    async def close(self) -> None:
        """Say goodbye to the server."""


#: Opens another session, for a moment.
Beside = Callable[[], AbstractAsyncContextManager[Session]]


class Driver(Protocol):
    """Makes sessions."""

    async def connect(self, settings: NodeSettings) -> Session:
        """Raises NodeUnavailable (retryable) or ConfigError (wrong password, no such database)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stillness:
    """Texts for a branch that tells of stillness, and the tags that they answer with."""

    #: Take the snapshot, and say what happened at that moment; any other tag is :attr:`Glance.BUSY`.
    glance: str
    glances: Mapping[str, Glance]
    #: Was nothing prepared or committed since?
    still: str
    yes: str
    #: Take another snapshot instead.
    look_again: str


class Dialect(Protocol):
    """What is particular to a kind of database. Methods return texts; those with ``session`` carry them out."""

    kind: str
    capabilities: Capabilities
    rules: Rules
    #: The tag that a text of ours must answer with, or "" where any answer without an error is success.
    prepared_tag: str
    decided_tag: str

    async def set_up(self, session: Session, settings: NodeSettings) -> None:
        """Make a new session fit for branches. Raises ConfigError where it has not reached the database that was opened."""

    async def serve(self, session: Session) -> None:
        """Make a new session fit for recovery and gates: users' settings must not change what it reads and may do.

        Raises ConfigError where it has not reached the database that was opened.
        """

    def begin(self, branch: BranchId, *, read_only: bool) -> str:
        """Open a branch."""

    def begin_on(self, session: Session, branch: BranchId, *, read_only: bool, terms: Terms) -> str:
        """Open a branch on terms: afterwards its locks are taken. Changes back what outlasted other terms."""

    def look(self, terms: Terms) -> str:
        """Take the snapshot of a branch that was opened on such terms."""

    def stillness(self, terms: Terms) -> Stillness | None:
        """How such a branch tells of stillness; None unless ``tells_stillness`` is declared."""

    async def export(self, session: Session) -> str:
        """Export the snapshot of the open branch; asked only where ``shares_snapshots`` is declared."""

    def refusal(self, findings: Sequence[Finding], isolation: Isolation, *, read_only: bool) -> str:
        """Why the server cannot give an isolation, by its findings; "" if it can."""

    def close_gate(self, wait_s: float, idle_s: float) -> str:
        """Keep everybody from deciding, in a session that the server ends when it idles for longer than ``idle_s``."""

    def reopen_gate(self) -> str:
        """Let them decide again; fails if the session has lost the gate. Answers when all that was decided is on disk."""

    def release(self, terms: Terms) -> str:
        """Commit a read-only branch; of a serializable one all that it read must be on disk when this is answered."""

    def prepare(self, branch: BranchId) -> str:
        """Leave the evidence and promise."""

    def decide(self, branch: BranchId, participants: Mapping[int, str]) -> str:
        """Insert the decision and commit, in one packet."""

    def finish(self, branch: BranchId, *, commit: bool) -> str:
        """Commit or roll back a prepared branch."""

    async def is_over(self, session: Session, branch: BranchId) -> bool:
        """Whether the session that a branch may be attached to is over, and has let it go; asked only where branches are."""

    def hidden(self, gid: str, branches: Sequence[int]) -> str:
        """A text that fails as locked while one of these is held and may not be listed; "" where all that are held are."""

    def reveal(self, branch: BranchId) -> str:
        """Have such a branch listed again, as the session's that says so; asked only where there can be one."""

    def is_conflict(self, failure: StatementFailed) -> bool:
        """Whether the decision's key exists already."""

    def is_retryable(self, failure: StatementFailed) -> bool:
        """Whether the same work may succeed when it is done again."""

    def is_missing(self, failure: StatementFailed) -> bool:
        """Whether ``finish`` said that there is no such branch; which proves nothing by itself."""

    def is_locked(self, failure: StatementFailed) -> bool:
        """Whether a probe waited too long for somebody who holds the key."""

    async def undo(self, session: Session, branch: BranchId) -> bool:
        """Roll back the open branch; whether the session is clean afterwards."""

    async def prepared(self, session: Session, domain: str) -> Listing:
        """List prepared branches."""

    async def end_owner(self, session: Session, branch: BranchId, handle: str) -> bool:
        """End the session that prepared, or may still prepare, a branch; whether it is known to be gone."""

    async def applied(self, session: Session, branches: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        """Which evidence is here."""

    async def before_probe(self, session: Session, lock_timeout_s: float) -> float:
        """Make a session ready to probe; returns the database's clock, in seconds."""

    async def probe(self, session: Session, gids: Sequence[str], until_s: float) -> Mapping[str, HomeSays]:
        """Insert missing tombstones, read all, forced to disk. Raises StatementFailed when a key stayed locked, or the
        database's clock says more than ``until_s``, where nothing is inserted."""

    async def decisions(self, session: Session, gids: Sequence[str]) -> Mapping[str, DecisionRow]:
        """Read decisions."""

    async def unfinished(self, session: Session, limit: int) -> Sequence[DecisionRow]:
        """Read decisions that are neither complete nor aborted, oldest first; those that cannot be read, too."""

    def complete(self, gids: Sequence[str]) -> str:
        """Mark decisions complete."""

    def drop_evidence(self, gids: Sequence[str]) -> str:
        """Delete evidence."""

    def old_evidence(self, before_gid: str, limit: int) -> str:
        """Select the gids of the evidence that is older than a gid, youngest first."""

    async def purge(self, session: Session, before_gid: str, retention_s: float, limit: int) -> int:
        """Delete old complete rows and tombstones."""

    def resolve(self, gid: str, *, commit: bool, reason: str) -> str:
        """Insert a decision by a person's order unless there is one."""

    def replace_broken(self, row: DecisionRow, *, commit: bool, reason: str) -> str:
        """Put a decision by a person's order in the place of a row that cannot be read and is still what it was."""

    async def check_own_session(self, session: Session, name: str, beside: Beside) -> None:
        """Raise ConfigError where a pooler gives one session of the server to several connections."""

    async def check_identity(self, session: Session, name: str, domain: str) -> None:
        """Raise ConfigError unless this database is installed and says that it is this node."""

    async def inspect(self, session: Session, name: str, domain: str) -> Sequence[Finding]:
        """Look at versions, settings, privileges, identity."""

    async def durable(self, session: Session) -> Sequence[Finding]:
        """Look at the settings on which it depends whether a commit outlives the machine: an error refuses the node as home."""

    async def install(self, session: Session, name: str, domain: str, random: str) -> str:
        """Create or migrate tables, write identity."""

    def ddl(self, name: str, domain: str) -> str:
        """The statements of ``install`` on an empty database."""


class Detached:
    """What a dialect answers whose prepared branches are free of the sessions that prepared them."""

    async def is_over(self, session: Session, branch: BranchId) -> bool:
        """Nothing is attached to it."""
        return True

    def hidden(self, gid: str, branches: Sequence[int]) -> str:
        """All that is held is listed."""
        return ""

    def reveal(self, branch: BranchId) -> str:
        """Nobody asks."""
        raise NotImplementedError
