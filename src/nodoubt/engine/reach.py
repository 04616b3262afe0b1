"""Opening what can be reached, for tools that must work while nodes are down: one node's outage blocks no other.

A manager refuses to start without all its nodes; settling and looking must not. Identity is checked all the same: a
node that could not be opened yet is opened, and checked, by the first call that reaches it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from nodoubt.engine.config import Config
from nodoubt.engine.engine import Engine
from nodoubt.engine.worlds import AsyncWorld
from nodoubt.errors import NodeUnavailable, NodoubtError
from nodoubt.nodes.contract import (
    ATOMIC,
    Branch,
    Capabilities,
    DecisionRow,
    Ended,
    Finding,
    Gate,
    Isolation,
    Listing,
    Node,
    Terms,
    always,
)
from nodoubt.nodes.registry import make_node
from nodoubt.protocol.ids import BranchId
from nodoubt.protocol.verdicts import HomeSays


class LateNode:
    """A node that is opened by its first call that succeeds in reaching it: see :class:`nodoubt.nodes.contract.Node`.

    Until then each call raises NodeUnavailable, or the ConfigError that opening raised.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._is_open = False
        self.name = node.name
        self.kind = node.kind
        self.capabilities: Capabilities = node.capabilities

    @property
    def home_refusal(self) -> str:
        return self._node.home_refusal

    async def open(self) -> None:
        if not self._is_open:
            await self._node.open()
            self._is_open = True

    async def check_durable(self) -> None:
        await (await self._opened()).check_durable()

    async def close(self) -> None:
        await self._node.close()

    async def _opened(self) -> Node:
        await self.open()
        return self._node

    async def begin(self, branch: BranchId, *, read_only: bool, is_home: bool, terms: Terms = ATOMIC) -> Branch:
        return await (await self._opened()).begin(branch, read_only=read_only, is_home=is_home, terms=terms)

    def refusal(self, isolation: Isolation, *, read_only: bool) -> str:
        return self._node.refusal(isolation, read_only=read_only)

    async def close_gate(self, wait_s: float) -> Gate:
        return await (await self._opened()).close_gate(wait_s)

    async def prepared(self) -> Listing:
        return await (await self._opened()).prepared()

    async def applied(self, branches: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        return await (await self._opened()).applied(branches)

    async def finish(self, branch: BranchId, *, commit: bool) -> Ended:
        try:
            node = await self._opened()
        except NodoubtError:
            return Ended.OWED
        return await node.finish(branch, commit=commit)

    async def probe(self, gids: Sequence[str], in_time: Callable[[], bool] = always) -> Mapping[str, HomeSays]:
        return await (await self._opened()).probe(gids, in_time)

    async def decisions(self, gids: Sequence[str]) -> Mapping[str, DecisionRow]:
        return await (await self._opened()).decisions(gids)

    async def unfinished(self, limit: int) -> Sequence[DecisionRow]:
        return await (await self._opened()).unfinished(limit)

    async def complete(self, gids: Sequence[str]) -> None:
        await (await self._opened()).complete(gids)

    async def drop_evidence(self, gids: Sequence[str]) -> None:
        await (await self._opened()).drop_evidence(gids)

    async def old_evidence(self, before_gid: str, limit: int) -> Sequence[str]:
        return await (await self._opened()).old_evidence(before_gid, limit)

    async def purge(self, before_gid: str, retention_s: float, limit: int) -> int:
        return await (await self._opened()).purge(before_gid, retention_s, limit)

    async def resolve(self, gid: str, *, commit: bool, reason: str) -> HomeSays:
        return await (await self._opened()).resolve(gid, commit=commit, reason=reason)

    async def inspect(self) -> Sequence[Finding]:
        return await self._node.inspect()

    async def install(self) -> str:
        return await self._node.install()

    def ddl(self) -> str:
        return self._node.ddl()


def nodes_of(config: Config) -> list[Node]:
    """The configured nodes, none of them opened. Raises ConfigError for an unknown scheme or a missing driver."""
    world = AsyncWorld()
    return [
        make_node(name, config.domain, settings, world, asynchronous=True) for name, settings in config.nodes.items()
    ]


@asynccontextmanager
async def reach(config: Config) -> AsyncIterator[Engine]:
    """An engine over all nodes that answer now or later, without a background settler; it is closed with the block.

    Entering raises ConfigError where a node that answers is not what it is configured as.
    """
    world = AsyncWorld()
    nodes = [LateNode(node) for node in nodes_of(config)]
    engine = Engine(nodes, world, domain=config.domain, settings=config.settings)

    async def attempt(node: LateNode) -> Exception | None:
        try:
            await node.open()
        except NodeUnavailable:
            return None
        except Exception as error:
            return error
        return None

    try:
        for error in await world.together([attempt(node) for node in nodes]):
            if error is not None:
                raise error
        yield engine
    finally:
        await engine.close()
