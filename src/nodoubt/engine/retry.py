"""When a closure that may be tried again is."""

from __future__ import annotations

from nodoubt.nodes.world import World

BACKOFF_S_FIRST = 0.02
BACKOFF_S_MAX = 1.0


def backoff_s(attempt: int, world: World) -> float:
    """Full jitter: a random time up to a bound that doubles with each attempt."""
    bound: float = min(BACKOFF_S_MAX, BACKOFF_S_FIRST * 2.0 ** (attempt - 1))
    return bound * int.from_bytes(world.random(2), "big") / 0xFFFF
