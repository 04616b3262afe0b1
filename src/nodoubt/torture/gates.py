"""Gates whose holder may die or stop: the steps of opening a snapshot, as points at which a worker is struck.

The protocol's steps have a watch. The gates have none, and are closed for milliseconds: a strike from outside rarely finds one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from nodoubt.nodes.contract import Gate, Node

#: The points, and what is left behind there: home's gate closed by nobody.
CLOSED = "gate closed"
REOPENING = "snapshots open, gates closed"
POINTS = (CLOSED, REOPENING)

#: Told which point was reached; may not return.
Reached = Callable[[str], None]


def watch(nodes: Iterable[Node], reached: Reached) -> None:
    """Tell when the gate of one of these nodes is closed, and when it is about to be opened."""
    for node in nodes:
        vars(node)["close_gate"] = partial(_close, node.close_gate, reached)


async def _close(close: Callable[[float], Awaitable[Gate]], reached: Reached, wait_s: float) -> Gate:
    gate = await close(wait_s)
    vars(gate)["reopen"] = partial(_reopen, gate.reopen, reached)
    reached(CLOSED)
    return gate


async def _reopen(reopen: Callable[[], Awaitable[None]], reached: Reached) -> None:
    reached(REOPENING)
    await reopen()
