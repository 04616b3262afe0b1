"""Somebody who looks at every node during the run: how many branches are in doubt, and for how long the longest of them."""

from __future__ import annotations

import asyncio
from typing import Protocol

from nodoubt.errors import NodoubtError
from nodoubt.nodes.contract import Listing
from nodoubt.protocol.ids import BranchId

#: How often each node is looked at.
LOOK_S = 0.5


class Listed(Protocol):
    """What is looked at: a node."""

    async def prepared(self) -> Listing:
        """List all prepared branches. Raises NodeUnavailable."""


class Watch:
    """What was prepared when. A node that does not answer keeps what it had."""

    def __init__(self) -> None:
        #: (seconds since the beginning, how many branches are prepared).
        self.samples: list[tuple[float, int]] = []
        #: The longest time from the first to the last sight of a prepared branch, and which.
        self.longest_s = 0.0
        self.longest_what = ""
        self._first_seen: dict[str, dict[BranchId, float]] = {}

    @property
    def in_doubt(self) -> int:
        """How many branches were prepared at the last look."""
        return sum(map(len, self._first_seen.values()))

    async def follow(self, name: str, node: Listed, started: float) -> None:
        """Look at a node until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                branches = (await node.prepared()).ours
            except NodoubtError:
                await asyncio.sleep(LOOK_S)
                continue
            now = loop.time()
            known = self._first_seen.get(name, {})
            self._first_seen[name] = {found.id: known.get(found.id, now) for found in branches}
            for branch, since in self._first_seen[name].items():
                if now - since > self.longest_s:
                    self.longest_s = now - since
                    self.longest_what = f"branch {branch.branch} of {branch.gid} on {name}"
            self.samples.append((now - started, self.in_doubt))
            await asyncio.sleep(LOOK_S)
