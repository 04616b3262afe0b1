"""Errors on purpose: protocol mistakes that others made, switched on one at a time, which the simulation must catch.

Each is a context manager that changes one function of the library. Nothing but tests and ``nodoubt sim --mutant`` comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from nodoubt.engine import performer
from nodoubt.errors import ConfigError
from nodoubt.nodes.contract import Ended
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.nodes.guard import Guard
from nodoubt.nodes.postgresql import PostgreSQL
from nodoubt.nodes.sql import SqlNode
from nodoubt.nodes.sql_branch import SqlBranch
from nodoubt.protocol import messages as m
from nodoubt.protocol.verdicts import HomeSays
from nodoubt.sim.machine import SimulatedFiles
from nodoubt.sim.seam import swapped


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A mistake: what it is, and how it is switched on."""

    mistake: str
    switch: Callable[[], AbstractContextManager[None]]


@contextmanager
def _perform(order: type[m.Order], step: Callable[..., Any]) -> Iterator[None]:
    with swapped(performer, "_PERFORM", {**performer._PERFORM, order: step}):
        yield


def _lost_is(fact: m.Fact) -> Callable[..., Any]:
    async def decide(self: performer.Performer, order: m.Decide) -> m.Fact:
        answer = await performer.Performer._decide(self, order)
        return fact if isinstance(answer, m.DecisionLost) else answer

    return decide


async def _read_only_probe(self: SqlNode, gids: Sequence[str]) -> Mapping[str, HomeSays]:
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
    for number, branch in self._live.items():
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
def _journal_unforced() -> Iterator[None]:
    with (
        swapped(SimulatedFiles, "fsync", lambda self, descriptor: None),
        swapped(SimulatedFiles, "fsync_folder", lambda self, path: None),
    ):
        yield


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
