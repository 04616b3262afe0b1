"""What clients did and saw, as the history checker reads it: an opinion that knows nothing of the simulation.

Lives here: attempts and views into histories of list-append, and the levels that hold for them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from nodoubt.judge import Level
from nodoubt.judge.history import NEVER, Ending, History, Op
from nodoubt.judge.verdict import judge_history
from nodoubt.nodes.contract import Isolation
from nodoubt.sim.workload import LISTS, Attempt, View

if TYPE_CHECKING:
    from nodoubt.sim.run import Simulation

#: What all transactions and views of a level keep together, over all nodes. At ``atomic`` isolation is each node's own. At
#: ``serializable`` transactions are in the order in which they had all of their locks, and views in that of the decisions.
PROMISED: Mapping[Isolation, Level] = {
    Isolation.ATOMIC: Level.READ_COMMITTED,
    Isolation.SNAPSHOT: Level.STRONG_SNAPSHOT_ISOLATION,
    Isolation.SERIALIZABLE: Level.STRONG_SNAPSHOT_ISOLATION,
}
#: What a node promises by itself, where that is more. MariaDB's REPEATABLE READ is none of the levels: its writes see more
#: than its reads do.
PROMISED_BY: Mapping[str, Level] = {"sqlite": Level.SERIALIZABLE}

_ENDINGS = {"committed": Ending.OK, "aborted": Ending.FAIL}


class Part(NamedTuple):
    """A transaction of a history: how it ended, what it did, and when."""

    ending: Ending
    ops: Sequence[Op]
    began: int
    ended: int = NEVER


def contradictions(world: Simulation) -> Iterator[str]:
    """What the history checker holds against the promised levels, and what callers missed of what they were told."""
    isolation, views = world.plan.isolation, world.chronicle.views
    last = [*_last(world)]
    attempts = [*_attempts(world)]
    done = [*attempts, *last]
    seen = [Part(Ending.OK, view.ops, view.began, view.ended) for view in views]
    if isolation is not Isolation.ATOMIC or not any(server.store.forgot for server in world.servers):
        # What a plain read saw on MariaDB the server may forget when it dies: that is the node's own isolation.
        yield from _against([*done, *seen], PROMISED[isolation], "all nodes")
    if isolation is Isolation.SERIALIZABLE and seen:
        yield from _against(done, Level.STRICT_SERIALIZABLE, "the transactions")
    if seen:
        # Each view is an instant between two decisions, and all locks of writes are held until the decision.
        appends = [part._replace(ops=[op for op in part.ops if op[0] == "append"]) for part in attempts]
        yield from _against([*appends, *last, *seen], Level.STRICT_SERIALIZABLE, "the appends and the views")
    for node, kind in world.plan.nodes.items():
        if kind in PROMISED_BY:
            here = [part._replace(ops=[op for op in part.ops if op[1][0] == node]) for part in [*done, *seen]]
            yield from _against(here, PROMISED_BY[kind], node)
    if isolation is Isolation.ATOMIC:
        yield from _missed(world)


def _attempts(world: Simulation) -> Iterator[Part]:
    by_hand = {gid for gid, _ in world.faults.by_hand}
    for attempt in world.attempts:
        if attempt.gid not in by_hand:
            ending = _ENDINGS.get(attempt.known, Ending.UNKNOWN)
            yield Part(ending, attempt.ops, attempt.began, attempt.ended)
            continue
        # What somebody finished by hand is no transaction over several nodes any more.
        for node in world.databases:
            yield Part(Ending.UNKNOWN, [op for op in attempt.ops if op[1][0] == node], attempt.began)


def _last(world: Simulation) -> Iterator[Part]:
    """In the end all lists are read: at once where all is settled, else one node after another, and none that is in doubt."""
    reads: dict[str, list[Op]] = {}
    for node, database in world.databases.items():
        rows = database.store.tables["list"]
        if world.plan.heals or not database.in_doubt():
            reads[node] = [("r", (node, name), rows[name]) for name in LISTS]
    for ops in [[*chain.from_iterable(reads.values())]] if world.plan.heals else reads.values():
        yield Part(Ending.OK, ops, world.chronicle.moment())


def _against(parts: Iterable[Part], level: Level, where: str) -> Iterator[str]:
    history = History()
    for ending, ops, began, ended in sorted(parts, key=lambda part: part.began):
        if ops:
            history.process.append(len(history.begin))
            history.begin.append(began)
            history.end.append(ended)
            history.ending.append(ending)
            history.ops.append(ops)
    for anomaly in judge_history(history).against(level):
        yield f"{where}: {level} is contradicted by {anomaly.name}: {'; '.join(anomaly.words)}"


def _missed(world: Simulation) -> Iterator[str]:
    """What a manager told one of its callers, and did not show to the next; the levels that span nodes forbid more."""
    by_hand = {gid for gid, _ in world.faults.by_hand}
    told: dict[tuple[object, object], list[tuple[int, str]]] = defaultdict(list)
    for attempt in world.attempts:
        if attempt.told == "committed" and attempt.gid not in by_hand:
            for function, place, tag in attempt.ops:
                if function == "append":
                    told[attempt.manager, place].append((attempt.ended, tag))
    readers: list[Attempt | View] = [*world.attempts, *world.chronicle.views]
    for reader in readers:
        for function, place, tags in reader.ops if told else ():
            for ended, tag in told.get((reader.manager, place), ()):
                if function == "r" and ended < reader.began and tag not in tags:
                    yield f"{tag} was told to be committed, and the same manager does not show it on {place}"
