"""What every contestant does: move 1 from a random account on the first node to a random account on the second.

Who counts a transaction must have moved the money on all nodes: the totals are read after each lap, with plain SQL.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

TABLE: Final = "nodoubt_bench"

ACCOUNTS: Final = 10_000
"""Enough that two of the clients seldom want the same row, and few enough to stay in memory."""

DOMAIN: Final = "bench"


class WorkNotDone(RuntimeError):
    """The data does not show what a contestant counted: its figures mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What can be chosen for a run. ``nodes`` are URLs by name; empty means servers of our own."""

    rounds: int = 7
    seconds: float = 2.0
    clients: int = 16
    branches: int = 10_000
    seed: int = 1
    nodes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lap:
    """One contestant's part of one round. CPU is in seconds; the servers' is None when they are not ours."""

    contestant: str
    seconds: float
    latencies_s: list[float]
    client_cpu_s: float
    server_cpu_s: float | None

    @property
    def count(self) -> int:
        """Transactions."""
        return len(self.latencies_s)

    @property
    def rate(self) -> float:
        """Transactions a second."""
        return self.count / self.seconds


def amount(node: int) -> int:
    """What a transaction adds to an account of the first, second, … node."""
    return 1 if node else -1


def keys(seed: int, lap: int, client: int) -> Callable[[], int]:
    """The accounts that a client draws in a lap: the same for every contestant."""
    draw = random.Random(f"{seed}/{lap}/{client}").random
    return lambda: int(draw() * ACCOUNTS)


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The least value that so many percent of an ordered, non-empty sequence do not exceed."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
