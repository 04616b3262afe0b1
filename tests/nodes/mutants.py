"""What broken in-memory nodes have in common: the harness in which a part is broken, and what a clause says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nodoubt.nodes.contract import Gate, Listing, Node
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.memory import MemoryDialect, MemoryNode
from nodoubt.nodes.memory_database import MemoryDatabase
from nodoubt.nodes.memory_locks import Locks
from nodoubt.nodes.sql_branch import SqlBranch
from nodoubt.protocol.ids import BranchId
from nodoubt.testing.conformance import NodeConformance
from nodoubt.testing.conformance.harness import DOMAIN
from tests.nodes.harnesses import MemoryHarness


class Mutant(MemoryHarness):
    """The harness of a broken node; subclasses say which part is broken."""

    dialect_class: type[MemoryDialect] = MemoryDialect
    node_class: type[MemoryNode] = MemoryNode
    branch_class: type[SqlBranch] = SqlBranch

    def dialect(self) -> MemoryDialect:
        return self.dialect_class()

    def node(self, name: str = "here", domain: str = DOMAIN, **settings: Any) -> Node:
        node_settings = NodeSettings(**{"url": "", "acquire_timeout_s": 0.2, "lock_timeout_s": 0.2, **settings})
        node = self.node_class(name, domain, node_settings, self.world, self.database, self.dialect())
        begin, branch_class = node.begin, self.branch_class

        async def begin_broken(branch: BranchId, **asked: Any) -> SqlBranch:
            made = await begin(branch, **asked)
            made.__class__ = branch_class
            return made

        node.begin = begin_broken  # type: ignore[method-assign]
        return node


class BrokenLocks(Locks):
    """Locks that a test can close for good."""

    def freeze_for_ever(self, table: str) -> None:
        self._frozen.setdefault(table, {})[0] = math.inf, 0.0

    def thaw(self, table: str) -> None:
        self._frozen.pop(table, None)

    def is_frozen(self, table: str) -> bool:
        return bool(self._frozen.get(table))


class BrokenDatabase(MemoryDatabase):
    """Subclasses break a verb."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self._locks: BrokenLocks = BrokenLocks(clock, self.end)


class BrokenServer(Mutant):
    """A node whose database is broken."""

    database_class: type[BrokenDatabase] = BrokenDatabase

    def __init__(self) -> None:
        super().__init__()
        self.database = self.database_class(self.world.now)


class BrokenGate(Mutant):
    """A node whose gates are broken."""

    async def prepared(self, gate: Gate) -> Listing:
        return await gate.prepared()

    async def committed(self, node: Node, gate: Gate, gids: Sequence[str]) -> set[str]:
        return await gate.committed(gids)

    async def reopen(self, gate: Gate) -> None:
        await gate.reopen()

    def node(self, name: str = "here", domain: str = DOMAIN, **settings: Any) -> Node:
        node = super().node(name, domain, **settings)
        close_gate, harness = node.close_gate, self

        class Wrapped:
            def __init__(self, gate: Gate) -> None:
                self._gate = gate

            async def prepared(self) -> Listing:
                return await harness.prepared(self._gate)

            async def committed(self, gids: Sequence[str]) -> set[str]:
                return await harness.committed(node, self._gate, gids)

            async def reopen(self) -> None:
                await harness.reopen(self._gate)

        async def close_broken(wait_s: float) -> Gate:
            return Wrapped(await close_gate(wait_s))

        node.close_gate = close_broken  # type: ignore[method-assign]
        return node


def why_broken(clause: str, harness: MemoryHarness) -> Exception | None:
    """Run one clause on a database of its own; what it complains of."""
    try:
        getattr(NodeConformance(), clause)(harness)
    except Exception as complaint:
        return complaint
    return None
