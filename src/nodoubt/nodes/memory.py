"""The in-memory node: the real steps of :class:`nodoubt.nodes.sql.SqlNode` over a :class:`MemoryDatabase`.

Only the server is played. Pool, guard, branches and every rule about lost answers are the ones that serve PostgreSQL, so that
a scenario or a simulation on memory nodes tries the code that runs in production. Several nodes on one database are several
processes on one server.

Texts of this dialect are a packet's name and words with blanks between them: ``prepare nd1.shop.….0.orders``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from nodoubt.errors import NodeUnavailable
from nodoubt.nodes.contract import Capabilities, DecisionRow, Finding, Glance, Isolation, Listing, PreparedBranch, Terms
from nodoubt.nodes.dialect import Beside, Detached, NodeSettings, Row, Session, Stillness
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.nodes.guard import BranchConnection, Guard
from nodoubt.nodes.identity import SCHEMA_VERSION, Identity, check_identity
from nodoubt.nodes.memory_calls import CHANGED, DUPLICATE, INJECTED, LOCKED, MISSING, Call, Lost, Refused
from nodoubt.nodes.memory_database import MemoryDatabase
from nodoubt.nodes.memory_packets import BRANCH, DECISION, NODE, PACKETS, Steps
from nodoubt.nodes.sql import SqlNode
from nodoubt.nodes.statements import SQLITE, Rule, Rules, starts
from nodoubt.nodes.texts import decision_row, participants_json
from nodoubt.nodes.world import World
from nodoubt.protocol.ids import BranchId, parse_text
from nodoubt.protocol.verdicts import HomeSays

#: How often a call that waits (for a lock, or for a packet that is held) looks again.
WAIT_STEP_S = 0.002

RULES = Rules(
    lexicon=SQLITE,
    forbidden=(Rule(pattern=starts("COMMIT|UNDO|PREPARE"), why="the block ends the transaction by itself"),),
    lasting=re.compile(r"(?!)"),
)


class MemoryConnection:
    """What the user works on: rows of tables by key, and savepoints. Every method raises Refused or Lost."""

    def __init__(self, session: MemorySession, guard: Guard) -> None:
        self._session = session
        self._guard = guard

    @property
    def session_number(self) -> int:
        """The session's number in its database, for tests that end it there."""
        return self._session.number

    async def get(self, table: str, key: str) -> Any:
        """The row, or None."""
        return await self._run("GET", ("get", table, key))

    async def put(self, table: str, key: str, row: Any) -> None:
        """Write a row, waiting for whoever holds it."""
        await self._run("PUT", ("put", table, key, row))

    async def insert(self, table: str, key: str, row: Any) -> None:
        """Write a row whose key must be new."""
        await self._run("INSERT", ("insert", table, key, row))

    async def delete(self, table: str, key: str) -> None:
        """Delete a row."""
        await self._run("DELETE", ("delete", table, key))

    async def savepoint(self, name: str) -> None:
        """Set a savepoint."""
        await self._run(f"SAVEPOINT {name}", ("savepoint", name))

    async def rollback_to(self, name: str) -> None:
        """Undo what was done since a savepoint."""
        await self._run(f"ROLLBACK TO {name}", ("restore", name))

    async def release(self, name: str) -> None:
        """Forget a savepoint."""
        await self._run(f"RELEASE {name}", ("drop", name))

    async def commit(self) -> None:
        """Refused by the guard, as on every connection."""
        await self._run("COMMIT", ("commit",))

    async def _run(self, text: str, step: tuple[Any, ...]) -> Any:
        with self._guard.statement(text):
            return (await self._session.call(step[0], (step,)))[-1]


class MemorySession(Session):
    """See :class:`nodoubt.nodes.sql.Session`."""

    def __init__(self, database: MemoryDatabase, world: World, settings: NodeSettings) -> None:
        self.token = ""
        self.database = database
        self._world = world
        self._lock_timeout_s = settings.lock_timeout_s
        self._is_cut = False
        try:
            self.number = database.connect()
        except Lost as lost:
            raise NodeUnavailable(f"cannot connect: {lost}") from lost
        self.handle = str(self.number)

    async def call(self, name: str, steps: Steps) -> list[Any]:
        """Send a packet and wait for its answer. Raises Refused or Lost."""
        self._check(name)
        pending = self.database.send(Call(session=self.number, name=name, steps=steps))
        until = self._world.now() + (self.database.lock_wait_s(self.number) or self._lock_timeout_s)
        try:
            while True:
                self._check(name)
                if pending.is_answered:
                    break
                await self._world.sleep(WAIT_STEP_S)
                if not self.database.is_held(pending):
                    self.database.carry_out(pending)
                    if self._world.now() >= until:
                        self.database.give_up(pending)
        except BaseException:
            # Cancelled in the middle: nobody will ever know what became of the call.
            self.abandon()
            raise
        if pending.refused is not None:
            raise pending.refused
        return pending.results

    def _check(self, name: str) -> None:
        if self._is_cut or not self.database.is_open(self.number):
            raise Lost(f"session {self.number} has ended: {name!r} has no answer")

    async def _send(self, text: str) -> list[Any]:
        name, *words = text.split(" ")
        try:
            return await self.call(name, PACKETS[name](self.database, *words))
        except Refused as refused:
            raise StatementFailed(refused.sqlstate, str(refused)) from refused
        except Lost as lost:
            raise ConnectionLost(str(lost)) from lost

    async def command(self, sql: str) -> str:
        return str((await self._send(sql))[-1])

    async def query(self, sql: str) -> Sequence[Row]:
        return [row for result in await self._send(sql) if isinstance(result, list) for row in result]

    def bind(self, guard: Guard) -> BranchConnection:
        return BranchConnection(MemoryConnection(self, guard), guard)

    def unbind(self) -> None:
        """Nothing is kept for a user."""

    def abandon(self) -> None:
        self._is_cut = True
        self.database.hang_up(self.number)

    async def close(self) -> None:
        self.abandon()


class MemoryDriver:
    """See :class:`nodoubt.nodes.sql.Driver`."""

    def __init__(self, database: MemoryDatabase, world: World) -> None:
        self.database = database
        self._world = world

    async def connect(self, settings: NodeSettings) -> MemorySession:
        return MemorySession(self.database, self._world, settings)


class MemoryDialect(Detached):
    """See :class:`nodoubt.nodes.sql.Dialect`."""

    kind = "memory"
    capabilities = Capabilities(home=True, detached=True, concurrent=True, shares_snapshots=True, tells_stillness=True)
    rules = RULES
    prepared_tag = "PREPARE"
    decided_tag = "COMMIT"

    async def set_up(self, session: Session, settings: NodeSettings) -> None:
        """A session in memory needs nothing, and there is one memory."""

    async def serve(self, session: Session) -> None:
        """Nor does one for recovery."""

    def begin(self, branch: BranchId, *, read_only: bool) -> str:
        return f"begin {'read-only' if read_only else 'writing'}"

    def begin_on(self, session: Session, branch: BranchId, *, read_only: bool, terms: Terms) -> str:
        atomic = self.begin(branch, read_only=read_only)
        if terms.isolation is Isolation.ATOMIC:
            return atomic
        return f"{atomic} {terms.isolation} {terms.lock_wait_s!r}"

    def look(self, terms: Terms) -> str:
        return f"look {terms.export}".rstrip()

    def stillness(self, terms: Terms) -> Stillness:
        return Stillness(
            glance="glance",
            glances={glance.name: glance for glance in Glance},
            still="still",
            yes="True",
            look_again="look",
        )

    async def export(self, session: Session) -> str:
        return await session.command("export")

    def refusal(self, findings: Sequence[Finding], isolation: Isolation, *, read_only: bool) -> str:
        return ""

    def close_gate(self, wait_s: float, idle_s: float) -> str:
        return f"close-gate {wait_s!r} {idle_s!r}"

    def reopen_gate(self) -> str:
        return "reopen-gate"

    def release(self, terms: Terms) -> str:
        return "release"

    def prepare(self, branch: BranchId) -> str:
        return f"prepare {branch.text()}"

    def decide(self, branch: BranchId, participants: Mapping[int, str]) -> str:
        return f"decide {branch.gid} {participants_json(participants)}"

    def finish(self, branch: BranchId, *, commit: bool) -> str:
        return f"finish {branch.text()} {'committed' if commit else 'aborted'}"

    def is_conflict(self, failure: StatementFailed) -> bool:
        return failure.code == DUPLICATE

    def is_retryable(self, failure: StatementFailed) -> bool:
        return failure.code in (LOCKED, CHANGED, INJECTED)

    def is_missing(self, failure: StatementFailed) -> bool:
        return failure.code == MISSING

    def is_locked(self, failure: StatementFailed) -> bool:
        return failure.code == LOCKED

    async def undo(self, session: Session, branch: BranchId) -> bool:
        await session.command("undo")
        return True

    async def prepared(self, session: Session, domain: str) -> Listing:
        listed = [(parse_text(name), age_s) for name, age_s in await session.query("list")]
        ours = [
            PreparedBranch(id=branch, age_s=age_s)
            for branch, age_s in listed
            if branch is not None and branch.domain == domain
        ]
        return Listing(ours=tuple(ours), foreign=len(listed) - len(ours))

    async def end_owner(self, session: Session, branch: BranchId, handle: str) -> bool:
        return handle == "" or await session.command(f"end {handle}") == "True"

    async def applied(self, session: Session, branches: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        there = {key for key, _ in await session.query(f"rows {BRANCH}")}
        return {(gid, branch) for gid, branch in branches if f"{gid} {branch}" in there}

    async def before_probe(self, session: Session, lock_timeout_s: float) -> float:
        ((now_s,),) = await session.query("now")
        return float(now_s)

    async def probe(self, session: Session, gids: Sequence[str], until_s: float) -> Mapping[str, HomeSays]:
        # One key after the other, so that two probes of the same keys never wait for each other.
        fresh: dict[str, bool] = dict(await session.query(" ".join(["probe", repr(until_s), *sorted(gids)])))
        rows = await self.decisions(session, gids)
        return {gid: HomeSays.FRESH if fresh[gid] else row.says for gid, row in rows.items()}

    async def decisions(self, session: Session, gids: Sequence[str]) -> Mapping[str, DecisionRow]:
        rows = await self._decisions(session)
        return {gid: rows[gid] for gid in gids if gid in rows}

    async def unfinished(self, session: Session, limit: int) -> Sequence[DecisionRow]:
        rows = sorted((await self._decisions(session)).items())
        return [row for _, row in rows if row.says in (HomeSays.COMMITTED, HomeSays.BROKEN)][:limit]

    async def _decisions(self, session: Session) -> Mapping[str, DecisionRow]:
        ((now_s,),) = await session.query("now")
        return {
            gid: decision_row(gid, decision, participants, complete, now_s - at_s, reason)
            for gid, (decision, participants, complete, at_s, reason) in await session.query(f"rows {DECISION}")
        }

    def complete(self, gids: Sequence[str]) -> str:
        return " ".join(["complete", *gids])

    def drop_evidence(self, gids: Sequence[str]) -> str:
        return " ".join(["drop-evidence", *gids])

    def old_evidence(self, before_gid: str, limit: int) -> str:
        return f"old-evidence {before_gid} {limit}"

    async def purge(self, session: Session, before_gid: str, retention_s: float, limit: int) -> int:
        return int(await session.command(f"purge {before_gid} {retention_s!r} {limit}"))

    def resolve(self, gid: str, *, commit: bool, reason: str) -> str:
        return f"resolve {gid} {'committed' if commit else 'aborted'} {reason}"

    def replace_broken(self, row: DecisionRow, *, commit: bool, reason: str) -> str:
        old = " ".join(quote(text, safe="") for text in row.raw or ("", ""))
        became = "committed" if commit else "aborted"
        return f"replace {row.gid} {became} {participants_json(row.participants)} {old} {reason}"

    async def check_own_session(self, session: Session, name: str, beside: Beside) -> None:
        """There are no poolers before it."""

    async def check_identity(self, session: Session, name: str, domain: str) -> None:
        check_identity(await self._identity(session), name, domain)

    async def _identity(self, session: Session) -> Identity | None:
        rows: dict[str, tuple[str, ...]] = dict(await session.query(f"rows {NODE}"))
        if "identity" not in rows:
            return None
        name, domain, random, version = rows["identity"]
        return Identity(name, domain, random, int(version))

    async def inspect(self, session: Session, name: str, domain: str) -> Sequence[Finding]:
        return []

    async def durable(self, session: Session) -> Sequence[Finding]:
        return []

    async def install(self, session: Session, name: str, domain: str, random: str) -> str:
        found = await self._identity(session)
        if found is not None:
            check_identity(found, name, domain)
            return f"already installed, schema {found.schema_version}"
        await session.command(f"install {name} {domain} {random} {SCHEMA_VERSION}")
        return f"installed, schema {SCHEMA_VERSION}"

    def ddl(self, name: str, domain: str) -> str:
        return f"install {name} {domain} by-hand {SCHEMA_VERSION}"


_DATABASES: dict[str, MemoryDatabase] = {}
_DATABASES_LOCK = threading.Lock()


def named(url: str, world: World) -> MemoryDatabase:
    """The database of this process that ``memory:name`` names, made when it is asked for first."""
    with _DATABASES_LOCK:
        return _DATABASES.setdefault(urlsplit(url).path, MemoryDatabase(world.now))


class MemoryNode(SqlNode):
    """A node on a database in memory: the one handed in, or the one that its URL names."""

    def __init__(
        self,
        name: str,
        domain: str,
        settings: NodeSettings,
        world: World,
        database: MemoryDatabase | None = None,
        dialect: MemoryDialect | None = None,
    ) -> None:
        self.database = named(settings.url, world) if database is None else database
        driver = MemoryDriver(self.database, world)
        super().__init__(
            name, domain, dialect=dialect or MemoryDialect(), driver=driver, world=world, settings=settings
        )
