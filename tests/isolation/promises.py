"""The levels that span nodes: how a transaction of a script asks for one, and what it may rely on then.

What a transaction reads and writes is known from its statements, so the keys that it declares follow from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum

from nodoubt import AsyncSnapshot, AsyncTransaction, AsyncTransactionManager
from nodoubt.nodes.contract import Key
from tests.isolation.notation import Script, Statement
from tests.isolation.scripts import SCRIPTS
from tests.isolation.verdict import Run, is_serializable, is_snapshot

Begun = AsyncTransaction | AsyncSnapshot

_ROW = re.compile(r"k = (\d)|VALUES \((\d)")


class Asked(StrEnum):
    """What the transactions of a script ask for."""

    ATOMIC = "atomic"
    #: ``tm.snapshot()`` by those that only read; the others are atomic.
    VIEWS = "views"
    SNAPSHOT = "snapshot"
    #: Nothing is declared: nodes are opened one by one, and there are no keys.
    SERIALIZABLE = "serializable"
    KEYS = "serializable, keys"


def begin(tm: AsyncTransactionManager, asked: Asked, script: Script, who: str, home: str | None) -> Begun:
    """A transaction of a script, asked for as its program would."""
    writes, reads = nodes(script, who)
    if asked in (Asked.VIEWS, Asked.SNAPSHOT) and not writes:
        return tm.snapshot(*reads)
    match asked:
        case Asked.SNAPSHOT:
            return tm.transaction(home=home, isolation="snapshot", nodes=writes, reads=reads)
        case Asked.SERIALIZABLE:
            return tm.transaction(home=home, isolation="serializable")
        case Asked.KEYS:
            declared = keys(script, who)
            return tm.transaction(home=home, isolation="serializable", nodes=writes, reads=reads, keys=declared)
        case _:
            return tm.transaction(home=home)


def nodes(script: Script, who: str) -> tuple[list[str], list[str]]:
    """The nodes that a transaction may write to, and those from which it only reads; in the order in which it comes to them."""
    found: dict[str, bool] = {}
    for step in _statements(script, who):
        found[step.node] = found.get(step.node, True) and step.read_only
    return [node for node, only in found.items() if not only], [node for node, only in found.items() if only]


def keys(script: Script, who: str) -> list[Key]:
    """A key for each row; where somebody searches, one for the table, too: searches share it, and every write takes it."""
    is_searched = any(_ROW.search(step.sql) is None for name in script.names for step in _statements(script, name))
    found: list[Key] = []
    for step in _statements(script, who):
        row, reads = _ROW.search(step.sql), step.sql.startswith("SELECT")
        if row is not None:
            found.append(Key(name=f"{step.node} row {row[1] or row[2]}", shared=reads))
        if row is None or (is_searched and not reads):
            found.append(Key(name=step.node, shared=reads))
    return found


def _statements(script: Script, who: str) -> Iterator[Statement]:
    return (step for step in script.steps if isinstance(step, Statement) and step.who == who)


_G0 = {"g0", "g0-opposite"}
_SEEN_IN_VIEWS = {
    *("g1a", "g1a-prepared", "g1b", "fractured", "otv", "g-single-lazy", "g-single-eager", "pmp", "long-fork")
}
#: The scripts whose anomaly is promised not to happen.
FORBIDS: Mapping[Asked, frozenset[str]] = {
    Asked.ATOMIC: frozenset(_G0),
    Asked.VIEWS: frozenset(_G0 | _SEEN_IN_VIEWS),
    Asked.SNAPSHOT: frozenset(_G0 | _SEEN_IN_VIEWS | {"g1c", "fractured-writer", "p4", "p4-across"}),
    Asked.SERIALIZABLE: frozenset(SCRIPTS),
    Asked.KEYS: frozenset(SCRIPTS),
}


def breach(asked: Asked, script: Script, run: Run) -> str:
    """How a run breaks the promise of what was asked for; "" if it keeps it.

    Beyond the anomalies that have names, every run must be explained: by a serial order, or by one instant at which each
    transaction's snapshots were opened and another at which it committed; both in the order of real time.
    """
    if script.name in FORBIDS[asked] and script.occurred(run.seen):
        return "it happened"
    match asked:
        case Asked.SNAPSHOT if not is_snapshot(script, run):
            return "snapshot isolation does not explain it"
        case Asked.SERIALIZABLE | Asked.KEYS if not is_serializable(script, run):
            return "no serial order explains it"
    return ""
