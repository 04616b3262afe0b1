"""What the processes of the proof do: production's engine from the first call to the last."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from nodoubt.engine.engine import Engine, Settings
from nodoubt.errors import NodoubtError
from nodoubt.protocol import messages as m
from nodoubt.protocol.states import Phase
from nodoubt.protocol.transaction import Transaction
from nodoubt.prove.stepping import Answers, Call, CallId, Run, SteppedWorld, run
from nodoubt.prove.wire import DOMAIN, NAMES, nodes


class Local(NamedTuple):
    """A state of one process, as the rest of the world sees it."""

    waiting: tuple[tuple[CallId, Call], ...]
    #: What its caller was told: committed, aborted, unknown, or the name of another error; "" before that.
    told: str = ""
    #: Why a person would be called, or what broke; "" as long as all is well.
    alarm: str = ""
    #: Of an owner: the phase of its machine, and what each participant answered to PREPARE while it prepares.
    phase: str = ""
    votes: tuple[str, ...] = ()
    #: What it did since its last call, for stories.
    notes: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        return not self.waiting


@dataclass(slots=True)
class Stage:
    """One process: its engine, and what is seen of it from outside."""

    branches: int
    attached: bool
    told: str = ""
    alarm: str = ""
    machine: Transaction | None = None
    notes: list[str] = field(default_factory=list)

    def engine(self) -> Engine:
        world = SteppedWorld()
        settings = Settings(retention_s=0.0, watch=self._watch)
        return Engine(nodes(self.branches, world, attached=self.attached), world, domain=DOMAIN, settings=settings)

    def _watch(self, kind: Literal["order", "fact"], gid: str, message: m.Order | m.Fact) -> None:
        if not isinstance(message, m.Enlisted):
            words = " ".join(str(getattr(message, slot)) for slot in message.__slots__ if slot == "branch")
            self.notes.append(f"{kind} {type(message).__name__} {words}".rstrip())


async def own(stage: Stage) -> None:
    """Begin, enlist every node, commit, and forget."""
    engine = stage.engine()
    work = engine.begin(home=NAMES[0])
    stage.machine = work.machine
    for name in engine.nodes:
        await work.on(name)
    try:
        stage.told = (await work.commit()).state
    except NodoubtError as error:
        stage.told = error.outcome.state if error.outcome and not error.outcome.strays else type(error).__name__
    await engine.flush()


async def settle(stage: Stage) -> None:
    """One round of settling, as of a process that was just started, without any grace."""
    report = await stage.engine().settle(grace_s=0.0)
    stage.alarm = "; ".join(f"branch {doubt.branch}: {doubt.case}" for doubt in report.strays)


async def purge(stage: Stage) -> None:
    """Purge what is old; whether anything is old yet is the database's answer."""
    await stage.engine().purge()


PROGRAMS: Mapping[str, Callable[[Stage], Coroutine[Any, Any, None]]] = {"own": own, "settle": settle, "purge": purge}


def reach(program: str, branches: int, answers: Answers, *, attached: bool = False) -> Local:
    """The state of a process that got these answers."""
    stage = Stage(branches, attached)
    # What the engine would log is told by invariants here.
    logging.disable(logging.CRITICAL)
    try:
        reached = run(PROGRAMS[program](stage), answers)
    finally:
        logging.disable(logging.NOTSET)
    phase = stage.machine.phase if stage.machine else ""
    votes = tuple(_vote(reached, node) for node in range(1, branches)) if phase == Phase.PREPARING else ()
    alarm = f"{type(reached.error).__name__}: {reached.error}" if reached.error else stage.alarm
    waiting = () if reached.error else tuple(sorted(reached.waiting.items()))
    return Local(waiting, stage.told, alarm, phase, votes, tuple(stage.notes))


def _vote(reached: Run, node: int) -> str:
    """What a participant answered: yes, no, refused (a rollback is under way), or asked."""
    answer = dict(reached.heard).get(Call(node, "prepare"), "")
    if answer == "PREPARE":
        return "yes"
    waiting = Call(node, "undo") in reached.waiting.values()
    return "asked" if not answer else "refused" if waiting else "no"
