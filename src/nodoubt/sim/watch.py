"""What the simulation sees of the engine: its orders and facts, and the cases of the verdict table."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from nodoubt.engine import performer, settle
from nodoubt.protocol import messages as m
from nodoubt.protocol.verdicts import Age, HomeSays, NodeSays, Verdict, Whose
from nodoubt.sim.loop import Schedule
from nodoubt.sim.observer import Observer
from nodoubt.sim.seam import swapped

#: Order or fact -> the crash point at which a process that dies next leaves the transaction.
POINTS: dict[str, str] = {
    "Enlisted": "C2",
    "CommitRequested": "C3",
    "Prepare": "C4",
    "Prepared": "C5",
    "Decide": "C7",
    "CommitBranch": "C9",
    "BranchCommitted": "C10",
    "Forget": "C11",
}


class Watcher:
    """Given to every manager as ``Settings.watch``."""

    def __init__(self, schedule: Schedule, observer: Observer) -> None:
        self._schedule = schedule
        self._observer = observer
        self.points: dict[str, str] = {}
        self._seen: Counter[str] = Counter()
        #: (message, how often it was seen) -> what to do then: faults that aim at the protocol instead of a time.
        self.aimed: dict[tuple[str, int], list[Callable[[str], object]]] = {}

    def __call__(self, what: Literal["order", "fact"], gid: str, message: m.Order | m.Fact) -> None:
        name = type(message).__name__
        self._seen[name] += 1
        loop: Any = asyncio.get_running_loop()
        if what == "fact":
            work = loop.owner.manager.engine.live.get(gid)
            if work is not None:
                self._observer.hit("transition", f"{work.machine.phase} + {name}")
        for strike in self.aimed.pop((name, self._seen[name]), ()):
            self._schedule.after(0.0, strike, loop.name)
        self._observer.hit(what, name)
        if self._observer.lines is not None:
            self._observer.say("machine", f"{gid[-6:]} {what} {message}")
        point = POINTS.get(name)
        if point is not None:
            self.points[gid] = point


@contextmanager
def verdicts_counted(observer: Observer) -> Iterator[None]:
    """Count the cases of the verdict table that the engine comes to. Nothing else tells of those that need no action."""

    def counting(original: Callable[..., Verdict]) -> Callable[..., Verdict]:
        def counted(home: HomeSays, node: NodeSays, whose: Whose, age: Age) -> Verdict:
            found = original(home, node, whose, age)
            observer.hit("verdict", found.label)
            return found

        return counted

    with ExitStack() as stack:
        for user in (settle, performer):
            stack.enter_context(swapped(user, "verdict", counting(vars(user)["verdict"])))
        yield
