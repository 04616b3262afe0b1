"""Errors on purpose in what spans nodes: openings, gates, keys, and what a manager owes its callers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from nodoubt.engine.engine import Engine
from nodoubt.engine.instant import Instant, Step
from nodoubt.nodes import postgresql, postgresql_locks
from nodoubt.nodes.contract import ATOMIC, Gate, Glance, Isolation, Key, Node
from nodoubt.nodes.mariadb import MariaDB
from nodoubt.nodes.postgresql import PostgreSQL
from nodoubt.nodes.sql import SqlNode
from nodoubt.nodes.sql_branch import SqlBranch
from nodoubt.nodes.sqlite import SQLiteNode
from nodoubt.sim.locks import Place, Txn
from nodoubt.sim.seam import Mutant, reworded, swapped
from nodoubt.sim.store import Store

_OPEN, _CLOSED, _REOPEN, _FINISH_DECIDED = Instant.open, Instant._closed, Instant._reopen, Instant._finish_decided


class _OpenGate:
    """A gate that keeps nobody off."""

    def __init__(self, node: SqlNode) -> None:
        self.committed, self.prepared = node.committed, node.listed

    async def reopen(self) -> None:
        """It is."""


async def _all_closed_but_one(self: Instant, name: str) -> Gate:
    node = self._nodes[name]
    if isinstance(node, SqlNode) and name == next(iter(self._nodes)):
        return _OpenGate(node)
    return await _CLOSED(self, name)


async def _nothing(self: object, what: object) -> None:
    return None


async def _finish_and_reopen(self: Instant, shown: Iterable[str]) -> None:
    await _FINISH_DECIDED(self, shown)
    await _REOPEN(self, is_left=True)


@contextmanager
def _lists_too_early() -> Iterator[None]:
    async def opening(self: Instant, locks: Mapping[str, Step], openers: Sequence[Any]) -> None:
        await _FINISH_DECIDED(self, {name for opener in openers for name in opener.shown})
        await _OPEN(self, locks, openers)

    with swapped(Instant, "open", opening), swapped(Instant, "_finish_decided", _nothing):
        yield


async def _one_too_late(self: Instant, locks: Mapping[str, Step], openers: Sequence[Any]) -> None:
    late = [opener.looks.pop(max(opener.looks)) for opener in openers if opener.looks]
    await _OPEN(self, locks, openers)
    for branch in late:
        await branch.take_snapshot()


async def _reopen_anyhow(self: Instant, *, is_left: bool) -> None:
    await _REOPEN(self, is_left=True)


async def _never_busy(self: SqlBranch) -> Glance:
    glance = await _GLANCE(self)
    return Glance.UNMOVED if glance is Glance.BUSY else glance


@contextmanager
def _begun(weak: Callable[..., bool]) -> Iterator[None]:
    """Some branches of serializable transactions are opened as any other."""

    def weakened(begin: Any) -> Any:
        async def begun(self: Node, branch: Any, *, terms: Any = ATOMIC, **asked: Any) -> Any:
            is_weak = terms.isolation is Isolation.SERIALIZABLE and weak(**asked)
            return await begin(self, branch, terms=ATOMIC if is_weak else terms, **asked)

        return begun

    with (
        swapped(SqlNode, "begin", weakened(SqlNode.begin)),
        swapped(SQLiteNode, "begin", weakened(SQLiteNode.begin)),
    ):
        yield


def _let_go(self: Store, txn: Txn, table: str) -> dict[Place, str]:
    held, txn.locks = txn.locks, [place for place in txn.locks if place[0] == table]
    self.release(txn)
    txn.locks = [place for place in held if place[0] != table]
    return {}


def _shared_by_all(domain: str, keys: Sequence[Key]) -> str:
    return _LOCKS(domain, [replace(key, shared=True) for key in keys])


_LOCKS = postgresql_locks.advisory_locks
_GLANCE = SqlBranch.glance

#: name -> mistake
ISOLATION: Mapping[str, Mutant] = {
    "gate-forgotten": Mutant(
        mistake="snapshots are opened while the gate of one home is open",
        switch=lambda: swapped(Instant, "_closed", _all_closed_but_one),
    ),
    "gate-reopened-early": Mutant(
        mistake="gates are opened again before the snapshots are taken",
        switch=lambda: swapped(Instant, "_finish_decided", _finish_and_reopen),
    ),
    "gate-loss-ignored": Mutant(
        mistake="that a gate was lost meanwhile is ignored",
        switch=lambda: swapped(Instant, "_reopen", _reopen_anyhow),
    ),
    "unfinished-ignored": Mutant(
        mistake="snapshots are opened although what was decided is not finished",
        switch=lambda: swapped(Instant, "_finish_decided", _nothing),
    ),
    "listed-too-early": Mutant(
        mistake="what is prepared is listed before the gates are closed", switch=_lists_too_early
    ),
    "snapshot-late": Mutant(
        mistake="one snapshot is opened when the gates are open again",
        switch=lambda: swapped(Instant, "open", _one_too_late),
    ),
    "snapshot-lazy": Mutant(
        mistake="PostgreSQL takes its snapshot at the first statement of the block",
        switch=lambda: reworded(PostgreSQL, "look", lambda text: text.removesuffix("SELECT 1").removesuffix(";")),
    ),
    "busy-ignored": Mutant(
        mistake="snapshots are opened without gates although somebody is at work",
        switch=lambda: swapped(SqlBranch, "glance", _never_busy),
    ),
    "read-unforced": Mutant(
        mistake="a serializable reader is told that it is through before what it read is on MariaDB's disk",
        switch=lambda: reworded(MariaDB, "release", lambda text: text.partition(";SET TRANSACTION")[0]),
    ),
    "view-unforced": Mutant(
        mistake="a view is open before what it shows is on MariaDB's disk",
        switch=lambda: reworded(MariaDB, "reopen_gate", lambda text: text.partition(";SET TRANSACTION")[0]),
    ),
    "last-committer-wins": Mutant(
        mistake="PostgreSQL is at READ COMMITTED in a snapshot",
        switch=lambda: reworded(PostgreSQL, "begin_on", lambda text: text.replace("REPEATABLE READ", "READ COMMITTED")),
    ),
    "keys-at-home-alone": Mutant(
        mistake="the keys are locked on home alone", switch=lambda: _begun(lambda is_home, **_: not is_home)
    ),
    "keys-of-writers-alone": Mutant(
        mistake="who only reads a node takes no locks there", switch=lambda: _begun(lambda read_only, **_: read_only)
    ),
    "keys-shared-by-all": Mutant(
        mistake="all keys are shared, also to write",
        switch=lambda: swapped(postgresql, "advisory_locks", _shared_by_all),
    ),
    "keys-let-go": Mutant(
        mistake="the keys are let go when a branch is prepared", switch=lambda: swapped(Store, "kept", _let_go)
    ),
    "pending-forgotten": Mutant(
        mistake="a manager forgets what it told its callers and is not finished",
        switch=lambda: swapped(Engine, "catch_up", _nothing),
    ),
}
