"""What must be true of a history in the end: the invariants of recovery, checked against the databases themselves.

Safety is judged of every history. That everything was settled is judged of those that healed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from nodoubt.errors import NodoubtError
from nodoubt.sim import record
from nodoubt.sim.workload import ACCOUNTS, BALANCE, LISTS, Attempt

if TYPE_CHECKING:
    from nodoubt.sim.process import Process
    from nodoubt.sim.run import Simulation


def open_ends(world: Simulation) -> list[str]:
    """What is prepared, or decided and not complete. What an operator rolled back is reported for ever instead."""
    found = []
    touched = {gid for (gid, _), commit in world.faults.by_hand.items() if not commit}
    for database in world.databases.values():
        found += [
            f"{name} is prepared on {database.name}" for name in database.in_doubt() if name not in world.strangers
        ]
        for gid, row in database.store.tables["decision"].items():
            if row[0] == "committed" and not row[2] and gid not in touched:
                found.append(f"the decision of {gid} at {database.name} is not complete")
    return found


def durable(world: Simulation) -> dict[str, Any]:
    """What outlives a power failure and settling must leave alone once all is settled."""
    state: dict[str, Any] = {}
    for database in world.databases.values():
        # Evidence is dropped behind complete decisions, by packets that may be on their way still.
        for table in ("list", "account"):
            state[f"{database.name} {table}"] = dict(database.store.tables[table])
        for gid, row in database.store.tables["decision"].items():
            # Reading a decision counts a probe where that is what forces it.
            state[gid] = row[:5]
    return state


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What settling again changed. That a finished decision is purged is no change."""
    appeared = [f"{what} appeared" for what in after if what not in before]
    vanished = [
        f"{what} vanished" for what, row in before.items() if what not in after and not (row[2] or row[0] == "aborted")
    ]
    return [
        *appeared,
        *vanished,
        *[f"{what} became {row}" for what, row in after.items() if before.get(what, row) != row],
    ]


async def ask(process: Process, world: Simulation) -> None:
    """As a new process: settle, then ask for every outcome that nobody was told. What is answered is judged as if he had been."""
    while not process.is_open:
        await process.world.sleep(0.1)
    report = await process.manager.settle(grace_s=0)
    world.reported.update((doubt.gid, doubt.node) for doubt in report.strays)
    for attempt in world.attempts:
        if attempt.known:
            continue
        try:
            outcome = await process.manager.outcome(attempt.gid)
        except NodoubtError as error:
            world.observer.violation(f"{attempt.tag}: its outcome cannot be asked: {error.message}")
            continue
        attempt.answered = outcome.state


def safety(world: Simulation) -> None:
    """Nothing contradicts anything else, in whatever state the world is."""
    left = {name for database in world.databases.values() for name in database.in_doubt()}
    for name in sorted(world.strangers - left):
        world.observer.violation(f"{name} is none of ours, and was finished")
    found = _tags(world)
    for attempt in world.attempts:
        counts = {node: found[node][attempt.tag] for node in attempt.moved}
        for node, count in counts.items():
            if count > 1:
                world.observer.violation(f"{attempt.tag} {attempt.gid} was applied {count} times on {node}")
        _judge_end(world, attempt, {node for node, count in counts.items() if count})
    for node, database in world.databases.items():
        balance = sum(database.store.tables["account"][account] for account in ACCOUNTS) - BALANCE * len(ACCOUNTS)
        moved = sum(attempt.moved[node] for attempt in world.attempts if found[node][attempt.tag])
        if balance != moved:
            world.observer.violation(f"the accounts on {node} moved by {balance}, its transactions by {moved}")
    for contradiction in record.contradictions(world):
        world.observer.violation(contradiction)


def _judge_end(world: Simulation, attempt: Attempt, there: set[str]) -> None:
    """One attempt: on which nodes it is, beside its decision and what its caller was told."""
    say = world.observer.violation
    what = f"{attempt.tag} {attempt.gid} (told {attempt.known or 'nothing'!r}) is on {sorted(there) or 'no node'}"
    by_hand = {node for gid, node in world.faults.by_hand if gid == attempt.gid}
    pending = {
        node
        for node, database in world.databases.items()
        if any(f".{attempt.gid}" in name for name in database.in_doubt())
    }
    decided = {row[0] for row in world.decisions(attempt.gid)}
    missing = set(attempt.moved) - there - by_hand - pending
    if attempt.known == "aborted" and there - by_hand:
        say(what)
    if attempt.known == "committed" and (missing or (world.plan.heals and pending)):
        say(f"{what}, not on {sorted(missing | pending)}")
    if there - by_hand and missing:
        say(f"{what}, but not on {sorted(missing)}")
    if there - by_hand and not attempt.whole:
        say(f"{what}, though its block never came to its end")
    if there - by_hand and decided == {"aborted"}:
        say(f"{what}, though home decided to abort")
    if len(decided) > 1:
        say(f"{what}, and has several decisions")


def _tags(world: Simulation) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for node, database in world.databases.items():
        for name in LISTS:
            found[node].update(database.store.tables["list"][name])
    return found


def liveness(world: Simulation) -> None:
    """After healing: whoever contradicted a decision by hand is named, to the caller or by settling."""
    for (gid, node), commit in world.faults.by_hand.items():
        decided = {row[0] for row in world.decisions(gid)}
        if decided and decided != {"committed" if commit else "aborted"}:
            told = any(node in attempt.strays for attempt in world.attempts if attempt.gid == gid)
            named = told or (gid, node) in world.reported
            world.observer.hit("by hand", "named" if named else "not named")
