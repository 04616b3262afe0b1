"""Holds back the last word to one branch, so that the moment between two COMMITs is a fact and not a race.

Hangs where nodes open branches, in front of the contract of ``nodoubt.nodes.contract``: for the manager it is a node that
takes its time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from nodoubt.nodes.contract import Said
from nodoubt.protocol.ids import BranchId


class Gate:
    """Where the commit, or the rollback after PREPARE, of one branch stops."""

    def __init__(self) -> None:
        #: The transaction stands here, and all of its other branches are over.
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    @property
    def holds(self) -> bool:
        """Whether somebody stands here."""
        return self.reached.is_set() and not self.open.is_set()


class Gates:
    """The gates of a manager's nodes. By default none stops anybody."""

    def __init__(self, nodes: Mapping[str, Any]) -> None:
        self._gates: dict[tuple[str, str], Gate] = {}
        self._branches: dict[str, list[GatedBranch]] = defaultdict(list)
        #: How often somebody finished a branch in place of its owner, who is held back.
        self.helped = 0
        for node in nodes.values():
            node.begin = self._beginning(node.name, node.begin)
            node.finish = self._finishing(node.name, node.finish)

    def shut(self, gid: str, node: str) -> Gate:
        """Hold the branch of this transaction back when it comes to its end."""
        return self._gates.setdefault((gid, node), Gate())

    def _beginning(self, name: str, begin: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def gated(branch: BranchId, **options: Any) -> GatedBranch:
            opened = GatedBranch(await begin(branch, **options), lambda ending: self._pass(branch.gid, name, ending))
            self._branches[branch.gid].append(opened)
            return opened

        return gated

    def _finishing(self, name: str, finish: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def counted(branch: BranchId, **options: Any) -> Any:
            gate = self._gates.get((branch.gid, name))
            self.helped += gate is not None and gate.holds
            return await finish(branch, **options)

        return counted

    async def _pass(self, gid: str, node: str, ending: GatedBranch) -> None:
        gate = self._gates.get((gid, node))
        if gate is None:
            return
        for other in self._branches[gid]:
            if other is not ending:
                await other.over.wait()
        gate.reached.set()
        await gate.open.wait()


class GatedBranch:
    """A branch that tells when it is over, and passes a gate before it is."""

    def __init__(self, branch: Any, passing: Callable[[GatedBranch], Awaitable[None]]) -> None:
        self._branch = branch
        self._passing = passing
        self.over = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._branch, name)

    async def prepare(self) -> Any:
        answer = await self._branch.prepare()
        if answer.said is Said.NO:
            self.over.set()
        return answer

    async def release(self) -> Any:
        return await self._ended(self._branch.release())

    async def decide(self, participants: Mapping[int, str]) -> Any:
        return await self._ended(self._branch.decide(participants))

    async def commit(self) -> Any:
        return await self._last(self._branch.commit)

    async def roll_back(self, *, prepared: bool) -> Any:
        if not prepared:
            return await self._ended(self._branch.roll_back(prepared=False))
        return await self._last(lambda: self._branch.roll_back(prepared=True))

    async def _last(self, step: Callable[[], Awaitable[Any]]) -> Any:
        await self._passing(self)
        return await self._ended(step())

    async def _ended(self, step: Awaitable[Any]) -> Any:
        answer = await step
        self.over.set()
        return answer
