"""Errors on purpose: protocol mistakes that others made, switched on one at a time, which the simulation must catch.

Each is a context manager that changes one function of the library. Nothing but tests and ``nodoubt sim --mutant`` comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from nodoubt.engine import engine, performer, settle
from nodoubt.engine.asynchronous import AsyncTransactionManager
from nodoubt.engine.moments import Moment
from nodoubt.errors import ConfigError
from nodoubt.nodes import mariadb_attached, sql_attached
from nodoubt.nodes.contract import Ended
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.nodes.guard import Guard
from nodoubt.nodes.mariadb import MariaDB
from nodoubt.nodes.postgresql import PostgreSQL
from nodoubt.nodes.sql import SqlNode
from nodoubt.nodes.sql_branch import SqlBranch
from nodoubt.nodes.sqlite import SQLiteNode
from nodoubt.nodes.sqlite_branch import SQLiteBranch
from nodoubt.nodes.sqlite_sessions import Sessions
from nodoubt.protocol import messages as m
from nodoubt.protocol.ids import BranchId, new_gid
from nodoubt.protocol.verdicts import HomeSays
from nodoubt.sim.machine import SimulatedFiles
from nodoubt.sim.mutants_isolation import ISOLATION
from nodoubt.sim.seam import Mutant, reworded, swapped


@contextmanager
def _perform(order: type[m.Order], step: Callable[..., Any]) -> Iterator[None]:
    with swapped(performer, "_PERFORM", {**performer._PERFORM, order: step}):
        yield


def _lost_is(fact: m.Fact) -> Callable[..., Any]:
    async def decide(self: performer.Performer, order: m.Decide) -> m.Fact:
        answer = await performer.Performer._decide(self, order)
        return fact if isinstance(answer, m.DecisionLost) else answer

    return decide


async def _read_only_probe(self: SqlNode, gids: Sequence[str], in_time: Callable[[], bool]) -> Mapping[str, HomeSays]:
    rows = await self.decisions(gids)
    return {gid: rows[gid].says if gid in rows else HomeSays.FRESH for gid in gids}


async def _finish(self: SqlNode, session: Any, branch: Any, commit: bool, owner: str) -> Ended:
    try:
        await session.command(self.dialect.finish(branch, commit=commit))
    except StatementFailed as failure:
        if not self.dialect.is_missing(failure):
            return Ended.OWED
    return Ended.DONE


async def _hasty_decide(self: performer.Performer, order: m.Decide) -> m.Fact:
    for number, branch in self.live.items():
        if number != order.branch:
            await branch.commit()
    return await performer.Performer._decide(self, order)


@contextmanager
def _tags_unread() -> Iterator[None]:
    with (
        swapped(PostgreSQL, "prepared_tag", ""),
        swapped(PostgreSQL, "decided_tag", ""),
        # The guard remembers failed statements as well: on PostgreSQL either alone would do.
        swapped(Guard, "failed", lambda self, error: None),
    ):
        yield


@contextmanager
def _undo_unasked() -> Iterator[None]:
    async def undo(self: Any, session: Any) -> bool:
        try:
            clean = await self._node.dialect.undo(session, self._id)
        except (ConnectionLost, StatementFailed):
            clean = False
        self._leave(clean=True)
        return bool(clean)

    with swapped(SqlBranch, "_undo", undo):
        yield


@contextmanager
def _believed() -> Iterator[None]:
    with swapped(mariadb_attached, "LETS_GO_S", 0.0), swapped(MariaDB, "hidden", lambda self, gid, branch: ""):
        yield


@contextmanager
def _journal_unforced() -> Iterator[None]:
    with (
        swapped(SimulatedFiles, "fsync", lambda self, descriptor: None),
        swapped(SimulatedFiles, "fsync_folder", lambda self, path: None),
    ):
        yield


@contextmanager
def _fsync_retried() -> Iterator[None]:
    fsync = SimulatedFiles.fsync

    def again(self: SimulatedFiles, descriptor: int) -> None:
        try:
            fsync(self, descriptor)
        except OSError:
            fsync(self, descriptor)

    with swapped(SimulatedFiles, "fsync", again):
        yield


@contextmanager
def _journal_read_unlocked() -> Iterator[None]:
    real = SQLiteNode._doubt
    #: What was seen in the journal before the lock was taken.
    looked: ContextVar[tuple[Any] | None] = ContextVar("looked", default=None)

    async def begin(self: SQLiteNode, branch: BranchId, **asked: Any) -> Any:
        looked.set((await self.sessions.read("begin", partial(real, self)),))
        try:
            return await opened(self, branch, **asked)
        finally:
            looked.set(None)

    def doubt(self: SQLiteNode, session: Any) -> Any:
        before = looked.get()
        return real(self, session) if before is None else before[0]

    opened = SQLiteNode.begin
    with swapped(SQLiteNode, "begin", begin), swapped(SQLiteNode, "_doubt", doubt):
        yield


@contextmanager
def _gid_reused() -> Iterator[None]:
    #: The gid of the first attempt, while there are more; None outside of them.
    first: ContextVar[str | None] = ContextVar("first", default=None)
    run = AsyncTransactionManager.run

    def reused(unix_ms: int, random: bytes) -> str:
        gid = first.get() or new_gid(unix_ms, random)
        if first.get() is not None:
            first.set(gid)
        return gid

    async def retried(self: AsyncTransactionManager, function: Any, **options: Any) -> Any:
        first.set("")
        try:
            return await run(self, function, **options)
        finally:
            first.set(None)

    with swapped(AsyncTransactionManager, "run", retried), swapped(engine, "new_gid", reused):
        yield


async def _first_node_is_home(self: settle.Settler, cases: Iterable[Any], *, probing: bool) -> None:
    cases = list(cases)
    for case in cases:
        case.home = next(iter(self._nodes)) if case.home in self._nodes else case.home
    await _ASK_HOMES(self, cases, probing=probing)


async def _silence_is_abort(self: settle.Settler, cases: Iterable[Any], *, probing: bool) -> None:
    cases = list(cases)
    await _ASK_HOMES(self, cases, probing=probing)
    for case in cases:
        case.says = HomeSays.ABORTED if case.says is HomeSays.SILENT else case.says


async def _purge_all(self: SqlNode, before_gid: str, retention_s: float, limit: int) -> int:
    return await _PURGE(self, "z" * len(before_gid), 0.0, limit)


def _age_by_the_database(case: Any, seen: object) -> float:
    ages = [branch.age_s for _, branch in case.prepared.values()]
    return float(min([*ages, case.row.age_s] if case.row else ages, default=0.0))


async def _nothing(self: SqlBranch) -> None:
    pass


def _prepared(branch: int) -> m.Fact:
    return m.Prepared(branch=branch)


def _committed(branch: int) -> m.Fact:
    return m.BranchCommitted(branch=branch)


def _answered(order: type[m.Order], was: type[m.Fact], becomes: Callable[[int], m.Fact]) -> Callable[..., Any]:
    real = performer._PERFORM[order]

    async def step(self: performer.Performer, given: Any) -> m.Fact | None:
        fact = await real(self, given)
        return becomes(given.branch) if isinstance(fact, was) else fact

    return step


_ASK_HOMES = settle.Settler._ask_homes
_PURGE = SqlNode.purge

#: name -> mistake
MUTANTS: Mapping[str, Mutant] = {
    "lost-is-abort": Mutant(
        mistake="a lost answer to the decision is read as an abort",
        switch=lambda: _perform(m.Decide, _lost_is(m.DecisionFailed(reason="lost"))),
    ),
    "lost-is-commit": Mutant(
        mistake="a lost answer to the decision is read as a commit",
        switch=lambda: _perform(m.Decide, _lost_is(m.DecisionDurable())),
    ),
    "commit-before-decision": Mutant(
        mistake="prepared branches are committed before the decision is durable",
        switch=lambda: _perform(m.Decide, _hasty_decide),
    ),
    "no-tombstone": Mutant(
        mistake="home is read without inserting a tombstone", switch=lambda: swapped(SqlNode, "probe", _read_only_probe)
    ),
    "missing-is-done": Mutant(
        mistake='"not found" is read as done', switch=lambda: swapped(SqlNode, "_finish", _finish)
    ),
    "failures-forgotten": Mutant(
        mistake="neither command tags nor failed statements are looked at", switch=_tags_unread
    ),
    "doubtful-pooled": Mutant(mistake="a session whose rollback failed goes back to the pool", switch=_undo_unasked),
    "journal-unforced": Mutant(
        mistake="a SQLite node votes before its journal is on the disk", switch=_journal_unforced
    ),
    "fsync-retried": Mutant(mistake="an fsync that failed is repeated, and believed", switch=_fsync_retried),
    "unseen-kept": Mutant(
        mistake="a branch on SQLite begins beside a commit that nobody sees, and leaves it there",
        switch=lambda: swapped(Sessions, "_overwrites_unseen", lambda self, session: False),
    ),
    "journal-unlocked": Mutant(mistake="the SQLite journal is read without the lock", switch=_journal_read_unlocked),
    "gid-reused": Mutant(mistake="a retry uses the gid of the attempt before", switch=_gid_reused),
    "two-homes": Mutant(
        mistake="settling takes the first node for home, whatever the branch names",
        switch=lambda: swapped(settle.Settler, "_ask_homes", _first_node_is_home),
    ),
    "mariadb-failure-ignored": Mutant(
        mistake="a failed statement is ignored, which MariaDB lets a branch commit",
        switch=lambda: swapped(Guard, "failed", lambda self, error: None),
    ),
    "silence-is-abort": Mutant(
        mistake="a home that does not answer is taken for one that aborted",
        switch=lambda: swapped(settle.Settler, "_ask_homes", _silence_is_abort),
    ),
    "purged-too-early": Mutant(
        mistake="decisions are purged while sessions that could insert them live",
        switch=lambda: swapped(SqlNode, "purge", _purge_all),
    ),
    "lost-prepare-is-yes": Mutant(
        mistake="a lost answer to PREPARE is read as a promise",
        switch=lambda: _perform(m.Prepare, _answered(m.Prepare, m.PrepareLost, _prepared)),
    ),
    "lost-commit-is-done": Mutant(
        mistake="a lost answer to a branch's COMMIT is read as done",
        switch=lambda: _perform(m.CommitBranch, _answered(m.CommitBranch, m.BranchOwed, _committed)),
    ),
    # These two were in the library until a simulation found them.
    "sessions-kept": Mutant(
        mistake="a branch that is handed to the settler keeps its session, and a SQLite file its lock",
        switch=lambda: swapped(SQLiteBranch, "hand_over", lambda self: None),
    ),
    "young-for-ever": Mutant(
        mistake="a branch is as young as a database says whose clock was set back",
        switch=lambda: swapped(settle._Case, "age_s", _age_by_the_database),
    ),
    "believed-at-once": Mutant(
        mistake="MariaDB is believed when it says that it finished a branch whose session just ended", switch=_believed
    ),
    "home-not-begun": Mutant(
        mistake="home's BEGIN waits for a first statement while others prepare, and its server ends nothing that idles",
        switch=lambda: swapped(SqlBranch, "begin_now", _nothing),
    ),
    "slept-unnoticed": Mutant(
        mistake="settling probes although hours have passed since it looked",
        switch=lambda: swapped(Moment, "is_late", lambda self, world, retention_s: False),
    ),
    "decision-unforced": Mutant(
        mistake="a decision is told before MariaDB, which has a binary log, has it on disk",
        switch=lambda: reworded(MariaDB, "decide", lambda text: text.partition(";SET TRANSACTION")[0]),
    ),
    "decision-left-prepared": Mutant(
        mistake="a decision that MariaDB took back to prepared is left for a branch that somebody else decides",
        switch=lambda: swapped(
            sql_attached, "listed", lambda node, session: node.dialect.prepared(session, node.domain)
        ),
    ),
    **ISOLATION,
}


@contextmanager
def switched_on(name: str) -> Iterator[None]:
    """Let the library make a mistake; "" makes none. Raises ConfigError."""
    if not name:
        yield
        return
    if name not in MUTANTS:
        raise ConfigError(f"there is no mutant {name!r}", hint=f"known are: {', '.join(MUTANTS)}")
    with MUTANTS[name].switch():
        yield
