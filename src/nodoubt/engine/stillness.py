"""Snapshots of several nodes at one instant without any gate: where all nodes stand still, any moment is an instant.

Every snapshot is what its node had committed at that moment, if

- forwards: each node stood still from its snapshot until the last one was taken, which it is asked afterwards; or
- backwards: each node stood still from before the first one was taken until its own, which it may know at once.

And no transaction was in the middle then: a branch that was decided and not finished would be prepared. That it was prepared
before the snapshot makes the node busy; that it was since, makes it move.
"""

from __future__ import annotations

from collections.abc import Sequence

from nodoubt.engine.together import all_of
from nodoubt.nodes.contract import Glance, Glancing
from nodoubt.nodes.world import World

#: Behind so many misses in a row, one opening in as many tries again.
SKIPS_MAX = 64


class Stillness:
    """Tries it where it may succeed: beside writers most tries fail, and what they cost comes on top."""

    def __init__(self, world: World) -> None:
        self._world = world
        #: How many openings did not try after the last miss, and how many of them are still to come.
        self._pause = 0
        self._skips = 0

    async def shows_one_instant(self, branches: Sequence[Glancing]) -> bool:
        """Take snapshots; if not, each branch must take another one. Raises NodeUnavailable."""
        if self._skips:
            self._skips -= 1
            return False
        if await self._stand_still(branches):
            self._pause = 0
            return True
        self._skips = self._pause = min(SKIPS_MAX, 2 * self._pause + 1)
        return False

    async def _stand_still(self, branches: Sequence[Glancing]) -> bool:
        glances = await all_of(self._world, [branch.glance() for branch in branches])
        if Glance.BUSY in glances:
            return False
        # Of one node any snapshot is an instant.
        if len(branches) == 1 or all(glance is Glance.UNMOVED for glance in glances):
            return True
        return all(await all_of(self._world, [branch.is_still() for branch in branches]))
