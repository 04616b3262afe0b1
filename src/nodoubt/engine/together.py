"""Several steps at once that may fail."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from nodoubt.errors import NodoubtError
from nodoubt.nodes.world import World

T = TypeVar("T")


async def all_of(world: World, steps: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run steps at once and return their results in order; raises one of their errors when all are through."""
    failures: list[NodoubtError] = []

    async def run(step: Coroutine[Any, Any, T]) -> list[T]:
        try:
            return [await step]
        except NodoubtError as error:
            failures.append(error)
            return []

    results = await world.together([run(step) for step in steps])
    if failures:
        raise failures[0]
    return [result for found in results for result in found]
