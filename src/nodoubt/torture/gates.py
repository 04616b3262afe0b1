"""Gates whose holder may die or stop: the steps of opening a snapshot, as points at which a worker is struck.

The protocol's steps have a watch. The gates have none, and are closed for milliseconds: a strike from outside rarely finds one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

from nodoubt.nodes.contract import Gate, Node

#: The points, and what is left behind there: home's gate closed by nobody.
CLOSED = "gate closed"
REOPENING = "snapshots open, gates closed"
POINTS = (CLOSED, REOPENING)

#: Told which point was reached; may not return.
Reached = Callable[[str], None]


class WatchedGate:
    """A closed gate: see :class:`nodoubt.nodes.contract.Gate`."""

    def __init__(self, gate: Gate, reached: Reached) -> None:
        self._gate = gate
        self._reached = reached

    async def committed(self, gids: Sequence[str]) -> set[str]:
        return await self._gate.committed(gids)

    async def reopen(self) -> None:
        self._reached(REOPENING)
        await self._gate.reopen()


def watch(nodes: Iterable[Node], reached: Reached) -> None:
    """Tell when the gate of one of these nodes is closed, and when it is about to be opened."""
    for node in nodes:
        vars(node)["close_gate"] = partial(_close, node.close_gate, reached)


async def _close(close: Callable[[float], Awaitable[Gate]], reached: Reached, wait_s: float) -> WatchedGate:
    gate = await close(wait_s)
    reached(CLOSED)
    return WatchedGate(gate, reached)
