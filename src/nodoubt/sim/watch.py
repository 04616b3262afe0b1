"""What the simulation sees of the engine: its orders and facts, and the cases of the verdict table."""

from __future__ import annotations

from typing import Literal

from nodoubt.protocol import messages as m
from nodoubt.sim.observer import Observer

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

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.points: dict[str, str] = {}

    def __call__(self, what: Literal["order", "fact"], gid: str, message: m.Order | m.Fact) -> None:
        name = type(message).__name__
        self._observer.hit(what, name)
        if self._observer.lines is not None:
            self._observer.say("machine", f"{gid[-6:]} {what} {message}")
        point = POINTS.get(name)
        if point is not None:
            self.points[gid] = point
