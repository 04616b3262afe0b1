"""Which failures of a closure may be tried again, and when."""

from __future__ import annotations

from nodoubt.errors import Aborted, NodeUnavailable, NodoubtError, Outcome
from nodoubt.nodes.world import World

BACKOFF_S_FIRST = 0.02
BACKOFF_S_MAX = 1.0


def may_retry(error: BaseException, outcome: Outcome) -> bool:
    """Only an error that says so, and only when the transaction is known to be aborted."""
    retryable = isinstance(error, NodoubtError) and error.retryable
    return retryable and isinstance(error, Aborted | NodeUnavailable) and outcome.state == "aborted"


def backoff_s(attempt: int, world: World) -> float:
    """Full jitter: a random time up to a bound that doubles with each attempt."""
    bound: float = min(BACKOFF_S_MAX, BACKOFF_S_FIRST * 2.0 ** (attempt - 1))
    return bound * int.from_bytes(world.random(2), "big") / 0xFFFF
