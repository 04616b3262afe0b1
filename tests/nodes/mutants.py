"""What broken in-memory nodes have in common: the harness in which a part is broken, and what a clause says of it."""

from __future__ import annotations

from typing import Any

from nodoubt.nodes.contract import Node
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.memory import MemoryDialect, MemoryNode
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


def why_broken(clause: str, harness: MemoryHarness) -> Exception | None:
    """Run one clause on a database of its own; what it complains of."""
    try:
        getattr(NodeConformance(), clause)(harness)
    except Exception as complaint:
        return complaint
    return None
