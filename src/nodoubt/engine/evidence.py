"""Everything that the nodes know of one transaction, read without touching anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nodoubt.engine.engine import Engine
from nodoubt.errors import ConfigError, NodoubtError
from nodoubt.nodes.contract import DecisionRow, Node, PreparedBranch
from nodoubt.protocol.ids import BRANCHES_MAX, BranchId, is_gid
from nodoubt.protocol.verdicts import Action, Age, HomeSays, NodeSays, Verdict, Whose, verdict

#: Branches that somebody outside nodoubt finished against the decision (recovery rule 15).
HEURISTIC = ("rolled-back-by-hand", "committed-by-hand")


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchEvidence:
    """One branch; ``id`` and ``age_s`` (by the node's clock) only while it is prepared."""

    branch: int
    node: str
    says: NodeSays
    verdict: Verdict
    id: BranchId | None = None
    age_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was found of a transaction. ``home`` is "" where nothing names it; ``silent`` maps nodes to why."""

    gid: str
    home: str
    says: HomeSays
    rows: Mapping[str, DecisionRow]
    branches: tuple[BranchEvidence, ...]
    silent: Mapping[str, str]

    @property
    def found(self) -> bool:
        """Whether any node that answered knows the transaction."""
        return bool(self.rows or self.branches)

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do, on any node that could have a part in it."""
        if self.says is HomeSays.COMPLETE:
            return True
        done = all(branch.verdict.action is Action.DONE for branch in self.branches)
        # A decision to commit names its branches; of an aborted one, a node that is silent may still hold some.
        answered = self.says is HomeSays.COMMITTED or not self.silent
        return self.found and done and answered and self.says is not HomeSays.BROKEN

    @property
    def heuristic(self) -> bool:
        """Whether somebody outside nodoubt finished a branch against the decision."""
        return any(branch.verdict.label in HEURISTIC for branch in self.branches)

    @property
    def prepared(self) -> dict[int, tuple[str, BranchId]]:
        """The branches that are prepared: number -> node and id."""
        return {b.branch: (b.node, b.id) for b in self.branches if b.id is not None}


async def gather(engine: Engine, gid: str) -> Evidence:
    """Ask every node. Raises ConfigError for what is no gid; nodes that cannot be asked are named in the result."""
    if not is_gid(gid):
        raise ConfigError(f"{gid!r} is not a gid", hint="a gid has 26 characters; `nodoubt tx list` shows some")
    silent: dict[str, str] = {}
    rows: dict[str, DecisionRow] = {}
    prepared: dict[int, tuple[str, PreparedBranch]] = {}
    applied: dict[int, str] = {}

    async def ask(node: Node) -> None:
        # The list first, then the decision, then the evidence (recovery rule 1).
        try:
            listing = await node.prepared()
            row = (await node.decisions([gid])).get(gid) if node.capabilities.home else None
            there = await node.applied([(gid, branch) for branch in range(BRANCHES_MAX)])
        except NodoubtError as error:
            silent[node.name] = error.message
            return
        prepared.update({b.id.branch: (node.name, b) for b in listing.ours if b.id.gid == gid})
        applied.update({branch: node.name for _, branch in there})
        if row is not None:
            rows[node.name] = row

    await engine.world.together([ask(node) for node in engine.nodes.values()])
    home = next((b.id.home for _, b in prepared.values()), "") or next(iter(rows), "")
    says = _home_says(engine, home, rows, silent)
    row = rows.get(home)
    ages = [b.age_s for _, b in prepared.values()] + ([row.age_s] if row else [])
    age = Age.RIPE if min(ages, default=0.0) >= engine.settings.grace_s else Age.YOUNG
    nodes = {**(row.participants if row else {}), **applied, **{n: node for n, (node, _) in prepared.items()}}
    branches = []
    for number, node in sorted(nodes.items()):
        seen = _node_says(number, node, prepared, applied, engine.nodes.keys() - silent)
        found = prepared.get(number, (node, None))[1]
        branches.append(
            BranchEvidence(
                branch=number,
                node=node,
                says=seen,
                verdict=verdict(says, seen, Whose.OURS, Age.RIPE if seen is NodeSays.APPLIED else age),
                id=found.id if found else None,
                age_s=found.age_s if found else None,
            )
        )
    return Evidence(gid=gid, home=home, says=says, rows=rows, branches=tuple(branches), silent=silent)


def _home_says(engine: Engine, home: str, rows: Mapping[str, DecisionRow], silent: Mapping[str, str]) -> HomeSays:
    """As a probe would find it, if it found no committer at work."""
    if home in rows:
        return rows[home].says
    if home in silent:
        return HomeSays.SILENT
    return HomeSays.FRESH if home in engine.nodes else HomeSays.STRANGER


def _node_says(
    number: int,
    node: str,
    prepared: Mapping[int, tuple[str, PreparedBranch]],
    applied: Mapping[int, str],
    answered: set[str],
) -> NodeSays:
    if number in prepared:
        return NodeSays.PREPARED
    if number in applied:
        return NodeSays.APPLIED
    return NodeSays.ABSENT if node in answered else NodeSays.SILENT
