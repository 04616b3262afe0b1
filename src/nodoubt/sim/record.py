"""What clients did and saw, as the history checker reads it: an opinion that knows nothing of the simulation.

Lives here: attempts into a history of list-append, and the levels that hold for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from nodoubt.judge import Level
from nodoubt.judge.history import NEVER, Ending, History, Op
from nodoubt.judge.verdict import judge_history
from nodoubt.sim.workload import LISTS

if TYPE_CHECKING:
    from nodoubt.sim.run import Simulation

#: What is promised over all nodes: all or nothing. Isolation is each node's own.
PROMISED = Level.READ_COMMITTED
#: What a node promises by itself, where that is more. MariaDB's REPEATABLE READ is none of the levels: its writes see more
#: than its reads do.
PROMISED_BY: Mapping[str, Level] = {"sqlite": Level.SERIALIZABLE}

_ENDINGS = {"committed": Ending.OK, "aborted": Ending.FAIL}


def contradictions(world: Simulation) -> Iterator[str]:
    """What the history checker holds against the promised levels."""
    known = list(_ended(world))
    yield from _against(known, PROMISED, "all nodes")
    for node, kind in world.plan.nodes.items():
        if kind in PROMISED_BY:
            here = [(ending, [op for op in ops if op[1][0] == node]) for ending, ops in known]
            yield from _against(here, PROMISED_BY[kind], node)


def _ended(world: Simulation) -> Iterator[tuple[Ending, list[Op]]]:
    """How each attempt ended, and its ops; in the end all lists are read."""
    by_hand = {gid for gid, _ in world.faults.by_hand}
    for attempt in world.attempts:
        if attempt.gid not in by_hand:
            yield _ENDINGS.get(attempt.told, Ending.UNKNOWN), attempt.ops
            continue
        # What somebody finished by hand is no transaction over several nodes any more.
        for node in world.databases:
            yield Ending.UNKNOWN, [op for op in attempt.ops if op[1][0] == node]
    for node, database in world.databases.items():
        rows = database.store.tables["list"]
        yield Ending.OK, [("r", (node, name), rows[name]) for name in LISTS]


def _against(known: Iterable[tuple[Ending, list[Op]]], level: Level, where: str) -> Iterator[str]:
    history = History()
    for ending, ops in known:
        if ops:
            history.process.append(len(history.begin))
            history.begin.append(len(history.begin))
            history.end.append(NEVER)
            history.ending.append(ending)
            history.ops.append(ops)
    for anomaly in judge_history(history).against(level):
        yield f"{where}: {level} is contradicted by {anomaly.name}: {'; '.join(anomaly.words)}"
