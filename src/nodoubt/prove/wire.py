"""The nodes of a stepped process: production's `SqlNode`, branches and pools, over a dialect whose every text is one call.

A call is one packet to the database, and so one step of the enumeration. Its answer is a word, `databases` says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nodoubt.nodes.contract import Capabilities, DecisionRow, Listing, PreparedBranch
from nodoubt.nodes.dialect import NodeSettings, Row, Session
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.nodes.guard import BranchConnection, Guard
from nodoubt.nodes.memory import MemoryDialect
from nodoubt.nodes.sql import SqlNode
from nodoubt.nodes.texts import decision_row, participants_json
from nodoubt.protocol.ids import BranchId, new_gid
from nodoubt.protocol.verdicts import HomeSays
from nodoubt.prove.stepping import UNIX_MS, Ask, Call, SteppedWorld

DOMAIN = "proof"
#: By their place in a process's configuration. Home is always first; which branch is meant by the others is the explorer's.
NAMES = ("home", "left", "right")
#: The one transaction of the proof; old enough to be purged at once.
GID = new_gid(UNIX_MS, bytes(10))

#: Answers that every call may get instead of its own.
LOST = "lost"
#: Errors that a database answers with.
ERRORS = frozenset({"refused", "duplicate", "missing", "busy", "too late"})


class SteppedSession(Session):
    """See :class:`nodoubt.nodes.dialect.Session`."""

    def __init__(self, node: int) -> None:
        self.token = ""
        #: Names the session of the one branch on its node, for whoever ends it.
        self.handle = "the branch's"
        self._node = node
        self._lost = False
        self._has_branch = False

    async def command(self, sql: str) -> str:
        """Make one call. Raises ConnectionLost or StatementFailed."""
        if self._lost:
            raise ConnectionLost("the session was lost before")
        if self._has_branch and sql in ("commit", "roll back"):
            sql = f"{sql} here"
        self._has_branch = self._has_branch or sql == "begin"
        answer = await Ask(Call(self._node, sql))
        if answer == LOST:
            self._lost = True
            raise ConnectionLost(f"no answer to {sql!r}")
        if answer in ERRORS:
            raise StatementFailed(answer, f"{sql!r} was answered {answer!r}")
        return answer

    async def query(self, sql: str) -> Sequence[Row]:
        """Make one call that is answered yes or no: one row, or none."""
        return [(GID,)] if await self.command(sql) == "yes" else []

    def bind(self, guard: Guard) -> BranchConnection:
        return BranchConnection(self, guard)

    def unbind(self) -> None: ...

    def abandon(self) -> None:
        self._lost = True

    async def close(self) -> None:
        self.abandon()


class SteppedDriver:
    """See :class:`nodoubt.nodes.dialect.Driver`."""

    def __init__(self, node: int) -> None:
        self._node = node

    async def connect(self, settings: NodeSettings) -> SteppedSession:
        return SteppedSession(self._node)


class SteppedDialect(MemoryDialect):
    """See :class:`nodoubt.nodes.dialect.Dialect`. ``attached``: prepared branches belong to their sessions, as on MariaDB."""

    def __init__(self, node: int, branches: int, world: SteppedWorld, *, attached: bool) -> None:
        self._world = world
        self.capabilities = Capabilities(home=node == 0, detached=not attached, concurrent=True)
        self._node = node
        self._participants = {number: NAMES[number] for number in range(1, branches)}

    def begin(self, branch: BranchId, *, read_only: bool) -> str:
        return "begin"

    def prepare(self, branch: BranchId) -> str:
        return "prepare"

    def decide(self, branch: BranchId, participants: Mapping[int, str]) -> str:
        return "decide"

    def finish(self, branch: BranchId, *, commit: bool) -> str:
        return "commit" if commit else "roll back"

    def is_conflict(self, failure: StatementFailed) -> bool:
        return failure.code == "duplicate"

    def is_missing(self, failure: StatementFailed) -> bool:
        return failure.code == "missing"

    def is_locked(self, failure: StatementFailed) -> bool:
        return failure.code == "busy"

    async def prepared(self, session: Session, domain: str) -> Listing:
        branch = BranchId(domain=domain, gid=GID, branch=self._node, home=NAMES[0])
        listed = await session.query("list")
        return Listing(ours=(PreparedBranch(id=branch, age_s=0.0),) if listed else ())

    async def end_owner(self, session: Session, branch: BranchId, handle: str) -> bool:
        needed = handle != "" or not self.capabilities.detached
        return not needed or await session.command("end session") == "yes"

    async def applied(self, session: Session, branches: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        return set(branches) if await session.query("applied") else set()

    async def before_probe(self, session: Session, lock_timeout_s: float) -> float:
        return 0.0

    async def probe(self, session: Session, gids: Sequence[str], until_s: float) -> Mapping[str, HomeSays]:
        rows = self._rows(await session.command("probe"))
        return {gid: rows[gid].says if gid in rows else HomeSays.FRESH for gid in gids}

    async def decisions(self, session: Session, gids: Sequence[str]) -> Mapping[str, DecisionRow]:
        return self._rows(await session.command("read"))

    async def unfinished(self, session: Session, limit: int) -> Sequence[DecisionRow]:
        return [*self._rows(await session.command("unfinished")).values()]

    def _rows(self, answer: str) -> dict[str, DecisionRow]:
        if answer not in ("committed", "complete", "aborted"):
            return {}
        decision = "aborted" if answer == "aborted" else "committed"
        participants = participants_json(self._participants if decision == "committed" else {})
        return {GID: decision_row(GID, decision, participants, answer == "complete", 0.0, "")}

    def complete(self, gids: Sequence[str]) -> str:
        return "complete"

    def drop_evidence(self, gids: Sequence[str]) -> str:
        return "drop evidence"

    def old_evidence(self, before_gid: str, limit: int) -> str:
        return "old evidence"

    async def purge(self, session: Session, before_gid: str, retention_s: float, limit: int) -> int:
        return len(await session.query("purge"))


def nodes(branches: int, world: SteppedWorld, *, attached: bool) -> list[Any]:
    """The nodes of one process."""
    settings = NodeSettings(url="")
    return [
        SqlNode(
            NAMES[number],
            DOMAIN,
            dialect=SteppedDialect(number, branches, world, attached=attached),
            driver=SteppedDriver(number),
            world=world,
            settings=settings,
        )
        for number in range(branches)
    ]
