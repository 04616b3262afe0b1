"""When a worker is killed, and at which step of a commit: drawn once from the seed, before the run.

Half of the kills come from outside at a random moment. Those rarely hit the milliseconds of a commit, so in the other half a
worker is told to kill itself, by the same ``kill -9``, when its next transaction reaches a certain step.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

#: Steps of the protocol, as the watch sees them, with what is left behind when a process ends there.
POINTS = {
    "order Prepare": "before a branch was prepared",
    "fact Prepared": "after a branch was prepared",
    "order Decide": "with all branches prepared, before the decision",
    "fact DecisionDurable": "after the decision, before any other branch was committed",
    "order CommitBranch": "on the way to commit a branch",
    "fact BranchCommitted": "after a branch was committed",
}
#: At these a branch is prepared and its owner gone, whatever else happens.
IN_DOUBT = ("order Decide", "fact DecisionDurable", "order CommitBranch")
#: The step of a worker that commits on one node after the other.
BETWEEN = "between two commits"

#: Kills are spread over this part of the run, so that the last replacement still gets to work.
FIRST, LAST = 0.05, 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One planned kill. ``point`` is None for one from outside."""

    at_s: float
    point: str | None


def plan(kills: int, seconds: float, dice: random.Random, *, unprotected: bool) -> list[Kill]:
    """Kills in the order of time: one at a random moment of each equal part of the run, every other one at a step."""
    part = (LAST - FIRST) * seconds / max(kills, 1)
    moments = [FIRST * seconds + part * (number + dice.random()) for number in range(kills)]
    points = [None if number % 2 else _draw(number, dice, unprotected=unprotected) for number in range(kills)]
    dice.shuffle(points)
    return [Kill(at_s=at_s, point=point) for at_s, point in zip(moments, points, strict=True)]


def _draw(number: int, dice: random.Random, *, unprotected: bool) -> str:
    if unprotected:
        return BETWEEN
    return dice.choice(IN_DOUBT if number == 0 else tuple(POINTS))
