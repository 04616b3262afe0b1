"""Everything that the nodes know of one transaction, read without touching anything."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from nodoubt.engine.engine import Engine
from nodoubt.errors import ConfigError, NodoubtError
from nodoubt.nodes.contract import DecisionRow, Node, PreparedBranch
from nodoubt.protocol.ids import BRANCHES_MAX, BranchId, is_gid
from nodoubt.protocol.verdicts import HEURISTIC, Action, Age, HomeSays, NodeSays, Verdict, Whose, verdict

T = TypeVar("T")


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
    homes = [node for node in engine.nodes.values() if node.capabilities.home]

    async def ask(node: Node, step: Callable[[], Coroutine[Any, Any, T]]) -> tuple[str, T] | None:
        try:
            return node.name, await step()
        except NodoubtError as error:
            silent[node.name] = error.message
            return None

    async def of_all(nodes: Iterable[Node], step: Callable[[Node], Coroutine[Any, Any, T]]) -> dict[str, T]:
        answers = await engine.world.together([ask(node, partial(step, node)) for node in nodes])
        return dict(answer for answer in answers if answer is not None)

    # The order that settling reads in, for the same reasons: see Settler._look.
    bound = _rows(await of_all(homes, lambda node: node.decisions([gid])))
    listings = await of_all(engine.nodes.values(), lambda node: node.prepared())
    pairs = [(gid, branch) for branch in range(BRANCHES_MAX)]
    evidence = await of_all(engine.nodes.values(), lambda node: node.applied(pairs))
    applied = {number: name for name, there in evidence.items() for _, number in there}
    rows = _rows(await of_all(homes, lambda node: node.decisions([gid])))
    prepared = {b.id.branch: (name, b) for name, listing in listings.items() for b in listing.ours if b.id.gid == gid}
    home = next((b.id.home for _, b in prepared.values()), "") or next(iter(rows), "")
    says = _home_says(engine, home, rows, silent)
    participants = bound[home].participants if home in bound else {}
    nodes = {**participants, **applied, **{n: node for n, (node, _) in prepared.items()}}
    branches = []
    for number, node in sorted(nodes.items()):
        seen = _node_says(number, node, prepared, applied, engine.nodes.keys() - silent)
        found = prepared.get(number, (node, None))[1]
        branches.append(
            BranchEvidence(
                branch=number,
                node=node,
                says=seen,
                verdict=verdict(says, seen, Whose.OURS, Age.RIPE),
                id=found.id if found else None,
                age_s=found.age_s if found else None,
            )
        )
    return Evidence(gid=gid, home=home, says=says, rows=rows, branches=tuple(branches), silent=silent)


def _rows(answers: Mapping[str, Mapping[str, DecisionRow]]) -> dict[str, DecisionRow]:
    return {name: row for name, rows in answers.items() for row in rows.values()}


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
