"""What became of a transaction, as its nodes tell it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from nodoubt.engine.settle import Doubt
from nodoubt.errors import NodoubtError, Outcome
from nodoubt.nodes.contract import DecisionRow, Node
from nodoubt.protocol.ids import BRANCHES_MAX
from nodoubt.protocol.verdicts import HEURISTIC, HomeSays


async def outcome_of(
    gid: str, nodes: Mapping[str, Node], in_doubt: Callable[[], Awaitable[Sequence[Doubt]]]
) -> Outcome:
    """Ask all homes for the decision, and the nodes for what somebody did against it."""
    rows, silent = await _decisions(gid, nodes.values())
    for row in rows.values():
        match row.says:
            case HomeSays.COMMITTED:
                left = {doubt.node: doubt.case in HEURISTIC for doubt in await in_doubt() if doubt.gid == gid}
                pending = sorted(node for node, is_stray in left.items() if not is_stray)
                strays = sorted(node for node, is_stray in left.items() if is_stray)
                return Outcome(state="committed", pending=tuple(pending), strays=tuple(strays))
            case HomeSays.COMPLETE:
                return Outcome(state="committed")
            case HomeSays.ABORTED:
                strays = sorted([node.name for node in nodes.values() if await _has_committed(node, gid)])
                reason = row.reason or "a tombstone stands at home"
                return Outcome(state="aborted", reason=reason, strays=tuple(strays))
            case _:
                return Outcome(state="unknown", reason=f"the decision row cannot be read: {row.reason}")
    if silent:
        return Outcome(state="unknown", reason=f"no answer from {', '.join(silent)}")
    return Outcome(
        state="unknown", reason="no node holds a decision: it was never decided, or is older than the retention"
    )


async def _has_committed(node: Node, gid: str) -> bool:
    """Whether a branch of the transaction left its evidence; a node that cannot be asked tells nothing."""
    try:
        return bool(await node.applied([(gid, branch) for branch in range(BRANCHES_MAX)]))
    except NodoubtError:
        return False


async def _decisions(gid: str, nodes: Iterable[Node]) -> tuple[dict[str, DecisionRow], list[str]]:
    """The decision rows of a gid by node, and the nodes that could not be asked."""
    rows: dict[str, DecisionRow] = {}
    silent: list[str] = []
    for node in nodes:
        if node.capabilities.home:
            try:
                found = await node.decisions([gid])
            except NodoubtError:
                silent.append(node.name)
                continue
            if gid in found:
                rows[node.name] = found[gid]
    return rows, silent
