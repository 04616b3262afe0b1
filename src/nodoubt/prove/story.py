"""A way through the states of a world, told in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nodoubt.prove.explorer import Findings, Move, State, Step, World
from nodoubt.prove.wire import LOST, NAMES

#: What each verb is to people; ``{}`` is the database.
_WORDS: Mapping[str, str] = {
    "prepare": "sends PREPARE to {}",
    "decide": "sends the decision and COMMIT to {}",
    "undo": "sends ROLLBACK to {}",
    "end session": "ends the branch's session on {}",
    "commit": "commits the prepared branch on {}",
    "roll back": "rolls the prepared branch back on {}",
    "commit here": "commits on {} in the branch's own session",
    "roll back here": "rolls back on {} in the branch's own session",
    "list": "lists what is prepared on {}",
    "applied": "looks for evidence on {}",
    "probe": "probes {}",
    "read": "reads the decision at {}",
    "unfinished": "reads the unfinished decisions of {}",
    "complete": "marks the decision complete at {}",
    "drop evidence": "drops the evidence on {}",
    "old evidence": "looks for old evidence on {}",
    "purge": "purges what is old at {}",
}
#: What happens without a call of a process; ``{}`` is the database.
_EVENTS: Mapping[str, str] = {
    "start": "begins a round",
    "crash": "is killed",
    "late prepare": "{}: the late PREPARE arrives",
    "late decide": "{}: the late decision arrives",
    "session ends": "{} ends the branch's session",
}


def tell(world: World, findings: Findings) -> list[str]:
    """The shortest way to what broke, in numbered lines; nothing if all is well."""
    if findings.ok:
        return []
    lines = []
    notes: dict[str, int] = {}
    for number, step in enumerate(_steps(world, findings.trail), start=1):
        lines.append(f"{number:>3}. {_sentence(step)}")
        local = world.locals[step.move.local]
        if step.who.startswith(("owner", "settler")):
            known = 0 if step.move.verb in ("start", "crash") else notes.get(step.who, 0)
            notes[step.who] = len(local.notes)
            if said := local.notes[known:]:
                lines.append(f"       {step.who} says: {'; '.join(said)}")
        lines.append(f"       {_standing(world, step.state)}")
    return [*lines, f"BROKEN: {findings.wrong}"]


def _steps(world: World, trail: list[State]) -> Iterator[Step]:
    """Follow canonical states under one naming of settlers and participants."""
    here = trail[0]
    for target in trail[1:]:
        step = next(step for step in world.steps(here) if world.canonical(step.state) == target)
        yield step
        here = step.state


def _sentence(step: Step) -> str:
    move = step.move
    if step.who == "databases":
        return _EVENTS[move.verb].format(NAMES[move.node])
    if step.who == "network":
        return f"a packet of somebody who {_did(move)} {move.how}"
    if move.fault is not None and "crash" in (move.verb, move.how[:5]):
        rest = f"; on its way is: {_did(move)}" if move.lingers else ""
        return f"{step.who} is killed{rest}"
    if move.verb == "start":
        return f"{step.who} {_EVENTS['start']}"
    ending = move.how if move.answer == LOST else ": ".join(filter(None, (move.answer, move.how)))
    return f"{step.who} {_did(move)}: {ending}"


def _did(move: Move) -> str:
    return _WORDS[move.verb].format(NAMES[move.node])


def _standing(world: World, state: State) -> str:
    truth, owner = world.truths[state[0]], world.locals[state[1]]
    told = f" · told: {owner.told}" if owner.told else ""
    parts = " · ".join(f"{name}: {part}" for name, part in zip(NAMES[1:], truth.parts, strict=False))
    return f"home's row: {truth.row or 'none'}, its session: {truth.home} · {parts}{told}"
