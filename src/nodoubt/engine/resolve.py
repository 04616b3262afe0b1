"""A person decides what nobody can learn any more.

There are two such cases. **Home is lost for good**: its database is destroyed, or it is no node of ours any longer;
then another node becomes home of that one gid and holds the person's decision. **Home's row cannot be read**: then
the person's decision takes its place, and the old text stays in its reason. In every other case the decision is
home's, and settling finds it; a person is refused. What was ordered is carried out by the same machine as any other
decision.

What a person's order must not contradict: a decision that can be read, on any node (recovery rule 2); work that is
committed already, which proves what the lost decision was; and a node that may hold either, but does not answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nodoubt.engine.engine import Engine
from nodoubt.engine.evidence import Evidence, gather
from nodoubt.engine.performer import Adopted, Performer
from nodoubt.engine.settle import AnsweredHome, complete
from nodoubt.errors import ConfigError, NodeUnavailable, NodoubtError, Outcome
from nodoubt.nodes.contract import DecisionRow, may_be_home
from nodoubt.protocol.ids import BranchId
from nodoubt.protocol.transaction import Transaction
from nodoubt.protocol.verdicts import HomeSays, NodeSays

_DECIDED = {
    HomeSays.COMMITTED: "committed",
    HomeSays.COMPLETE: "committed",
    HomeSays.ABORTED: "aborted",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be done: the decision is written at node ``at``, then the prepared branches are finished by it."""

    gid: str
    commit: bool
    home: str
    at: str
    why: str
    prepared: dict[int, tuple[str, BranchId]]


async def plan(engine: Engine, gid: str, *, commit: bool, at: str | None) -> Plan:
    """Find out whether a person may decide, and what would be done; touches nothing.

    ``at`` names the node that becomes home where home is lost. Raises NodoubtError where no person is needed or the
    order contradicts what is known, NodeUnavailable where that cannot be known, ConfigError where ``at`` is unfit.
    """
    if at is not None and not may_be_home(engine.node(at)):
        raise ConfigError(f"node {at!r} cannot hold a decision", hint="run `nodoubt doctor` to see why")
    found = await gather(engine, gid)
    if not found.found:
        raise _unanswered(found, found.silent) if found.silent else NodoubtError("no node knows this gid", gid=gid)
    _home_must_be_lost_or_broken(found)
    others = {name: why for name, why in found.silent.items() if name != found.home}
    if others:
        raise _unanswered(found, others)
    if found.says is HomeSays.BROKEN:
        if at not in (None, found.home):
            raise ConfigError(f"home {found.home!r} answers: its row is replaced there", hint="leave --home out")
        at, why = found.home, f"the decision row on home {found.home!r} cannot be read: {found.rows[found.home].reason}"
    else:
        at, why = _another_home(found, at, commit), _lost(found)
    committed = [branch.node for branch in found.branches if branch.says is NodeSays.APPLIED]
    if committed and not commit:
        raise NodoubtError(
            f"the branch on {', '.join(map(repr, committed))} is committed already, so the decision was to commit",
            gid=gid,
            hint="resolve it with --commit",
        )
    return Plan(gid=gid, commit=commit, home=found.home, at=at, why=why, prepared=found.prepared)


def _home_must_be_lost_or_broken(found: Evidence) -> None:
    if found.says in _DECIDED and found.prepared:
        raise NodoubtError(
            f"home {found.home!r} has decided: {_DECIDED[found.says]}",
            gid=found.gid,
            hint="nobody needs to decide: `nodoubt settle` carries it out",
        )
    if found.says in _DECIDED or (found.says is not HomeSays.BROKEN and not found.prepared):
        raise NodoubtError(
            "no branch of it is prepared, so there is nothing to decide",
            gid=found.gid,
            hint="see `nodoubt tx show` for what is known of it",
        )
    if found.says is HomeSays.FRESH:
        raise NodoubtError(
            f"home {found.home!r} answers and holds no decision",
            gid=found.gid,
            hint="nobody needs to decide: `nodoubt settle` aborts it there and rolls its branches back",
        )


def _lost(found: Evidence) -> str:
    if found.home in found.silent:
        return f"home {found.home!r} does not answer: {found.silent[found.home]}"
    return f"home {found.home!r} is not configured"


def _another_home(found: Evidence, at: str | None, commit: bool) -> str:
    """Where the decision is written. One that a person ordered before, and nobody else's, is gone on with."""
    wanted = "committed" if commit else "aborted"
    for name, row in found.rows.items():
        stands = _DECIDED.get(row.says, "unreadable")
        if stands != wanted or at not in (None, name):
            raise NodoubtError(
                f"node {name!r} holds a decision for it already: {stands} ({_reason(row)})",
                gid=found.gid,
                hint=f"resolve it with --{'commit' if stands == 'committed' else 'abort'} --home {name}",
            )
        return name
    if at is None or at == found.home:
        raise ConfigError(
            _lost(found),
            hint="if it is lost for good, name the node that shall hold the decision in its place: --home NODE",
        )
    return at


def _reason(row: DecisionRow) -> str:
    return row.reason or "without a reason"


def _unanswered(found: Evidence, silent: Iterable[str]) -> NodeUnavailable:
    return NodeUnavailable(
        f"{', '.join(map(repr, silent))} cannot be asked, and may know the decision or hold a branch",
        gid=found.gid,
        hint="try again when every node answers; one that is lost for good must leave the configuration first",
    )


async def carry_out(engine: Engine, order: Plan, reason: str) -> Outcome:
    """Write the decision with its reason, then finish the prepared branches; returns what was reached.

    Raises NodeUnavailable, and NodoubtError where somebody else's decision was there first. Doing it again goes on.
    """
    node = engine.node(order.at)
    wanted = "committed" if order.commit else "aborted"
    says = await node.resolve(order.gid, commit=order.commit, reason=f"resolved by a person: {reason}; {order.why}")
    if _DECIDED.get(says) != wanted:
        raise NodoubtError(f"node {order.at!r} was told otherwise meanwhile: {says}", gid=order.gid)
    machine, orders = Transaction.recovered(order.gid, {number: name for number, (name, _) in order.prepared.items()})
    home: Any = AnsweredHome(node, says)
    performer = Performer(machine, home, engine.world, engine.watch)
    performer.adopted = {number: Adopted(engine.nodes[name], id_) for number, (name, id_) in order.prepared.items()}
    await performer.follow(orders)
    outcome = machine.outcome
    if order.commit and order.at != order.home and not outcome.pending and not outcome.strays:
        # Nobody else knows which branches belong to it.
        branches = {number: name for number, (name, _) in order.prepared.items()}
        await complete(engine.nodes, order.at, {order.gid: branches})
    return outcome
