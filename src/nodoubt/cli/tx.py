"""`nodoubt tx list`, `tx show` and `tx resolve`: look at what is in doubt, and decide what nobody can learn."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from nodoubt.cli.common import Exit, add_command, age, configuration, count, doubt_lines, note, run_async, tell
from nodoubt.engine.config import Config
from nodoubt.engine.evidence import BranchEvidence, Evidence, gather
from nodoubt.engine.reach import reach
from nodoubt.engine.resolve import Plan, carry_out, plan
from nodoubt.engine.settle import SettleReport
from nodoubt.errors import ConfigError, NodeUnavailable, NodoubtError, Outcome
from nodoubt.protocol.verdicts import Action, HomeSays, NodeSays

EXAMPLES = {
    "list": ("nodoubt tx list", "nodoubt tx list --json"),
    "show": ("nodoubt tx show GID", "nodoubt tx show GID --json"),
    "resolve": (
        'nodoubt tx resolve GID --commit --home stock --reason "orders burnt down; its backup shows the order"',
        'nodoubt tx resolve GID --abort --reason "row damaged by a bad script" --yes',
    ),
}

_NEXT = {
    Action.COMMIT: "settling commits it",
    Action.ROLL_BACK: "settling rolls it back",
    Action.DONE: "nothing is left to do",
    Action.WAIT: "settling tries again later",
    Action.LEAVE: "it is left alone",
    Action.REPORT: "a person compares the nodes and mends the data: nodoubt will not guess",
}
_RESOLVABLE = {
    "home-unknown": "configure its home; if that is lost for good: nodoubt tx resolve {gid} --home NODE …",
    "home-broken": "a person decides: nodoubt tx resolve {gid} …",
    "home-silent": "settling waits for home; if that is lost for good: nodoubt tx resolve {gid} --home NODE …",
}


def add(subparsers: Any) -> None:
    """Register the commands."""
    family = subparsers.add_parser("tx", help="list, show or resolve transactions that are in doubt")
    commands = family.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = add_command(
        commands,
        "list",
        summary="everything that is prepared or decided and not finished",
        description="Lists what is in doubt or unfinished, with the case that recovery applies to it. Touches nothing. "
        "The exit code is 4 if anything is listed, else 3 if a node could not be asked, else 0.",
        examples=EXAMPLES["list"],
    )
    listing.set_defaults(run=run_list)
    show = add_command(
        commands,
        "show",
        summary="what every node knows of one transaction",
        description="Shows the evidence of every node, the case that decides for each branch, and what happens next. "
        "Touches nothing. The exit code is 0 if all is settled, 4 if it is in doubt or unfinished, 3 if "
        "that depends on a node that could not be asked, and 1 if no node knows the gid or somebody "
        "finished a branch by hand against the decision.",
        examples=EXAMPLES["show"],
    )
    show.add_argument("gid", metavar="GID", help="the transaction's id")
    show.set_defaults(run=run_show)
    resolve = add_command(
        commands,
        "resolve",
        summary="decide by hand what nobody can learn any more",
        description="Only for two cases: home is lost for good (its database destroyed, or taken out of the "
        "configuration): then --home names another node to hold the decision; or home's row cannot be read:"
        " then it is replaced, and its text kept in the reason. In every other case `nodoubt settle` finds "
        "the decision, and this command refuses. The decision is written first, then the prepared branches "
        "are finished by it.",
        examples=EXAMPLES["resolve"],
    )
    resolve.add_argument("gid", metavar="GID", help="the transaction's id")
    which = resolve.add_mutually_exclusive_group(required=True)
    which.add_argument("--commit", action="store_true", help="decide to commit")
    which.add_argument("--abort", action="store_true", help="decide to abort")
    resolve.add_argument(
        "--reason", metavar="TEXT", required=True, help="why, for those who ask later; kept in the row"
    )
    resolve.add_argument("--home", metavar="NODE", help="the node that holds the decision in place of a lost home")
    resolve.add_argument("--yes", action="store_true", help="don't ask for confirmation")
    resolve.set_defaults(run=run_resolve)


def run_list(arguments: argparse.Namespace) -> int:
    """See the command's help."""
    config = configuration(arguments)

    async def look() -> SettleReport:
        async with reach(config) as engine:
            return await engine.look()

    report = run_async(look())
    result = {
        "in_doubt": [asdict(doubt) for doubt in report.waiting],
        "unreachable": report.unreachable,
        "foreign": report.foreign,
    }
    where = " on the nodes that answered" if report.unreachable else ""
    lines = doubt_lines(report.waiting) if report.waiting else [f"nothing is in doubt{where}"]
    lines += [f"node {name} could not be asked: {why}" for name, why in report.unreachable.items()]
    tell(arguments, result, lines)
    if report.waiting:
        return Exit.IN_DOUBT
    return Exit.UNREACHABLE if report.unreachable else Exit.FINE


def run_show(arguments: argparse.Namespace) -> int:
    """See the command's help."""
    config = configuration(arguments)

    async def look() -> Evidence:
        async with reach(config) as engine:
            return await gather(engine, arguments.gid)

    found = run_async(look())
    if not found.found:
        if found.silent:
            raise NodeUnavailable(
                f"no node that answered knows this gid; no answer from {', '.join(found.silent)}", gid=arguments.gid
            )
        raise NodoubtError(
            "no node knows this gid",
            gid=arguments.gid,
            hint="it was never prepared, or its decision is older than the retention",
        )
    tell(arguments, _shown(found), _show_lines(found))
    if found.settled:
        return Exit.FINE
    if found.heuristic:
        return Exit.FINDING
    undone = any(branch.verdict.action is not Action.DONE for branch in found.branches)
    return Exit.UNREACHABLE if found.silent and not undone else Exit.IN_DOUBT


def _shown(found: Evidence) -> dict[str, Any]:
    return {
        "gid": found.gid,
        "settled": found.settled,
        "home": found.home,
        "home_says": _home_text(found),
        "decisions": {
            name: {
                "says": row.says.value,
                "participants": dict(row.participants),
                "age_s": row.age_s,
                "reason": row.reason,
            }
            for name, row in found.rows.items()
        },
        "branches": [
            {
                "branch": branch.branch,
                "node": branch.node,
                "says": branch.says.value,
                "age_s": branch.age_s,
                "case": branch.verdict.label,
                "why": branch.verdict.why,
                "next": _next(found, branch),
            }
            for branch in found.branches
        ],
        "unreachable": dict(found.silent),
    }


def _home_text(found: Evidence) -> str:
    # The word for "nothing" is that of a probe, but looking inserts nothing.
    return "no decision" if found.says is HomeSays.FRESH else found.says.value


def _next(found: Evidence, branch: BranchEvidence) -> str:
    if branch.verdict.label in _RESOLVABLE:
        return _RESOLVABLE[branch.verdict.label].format(gid=found.gid)
    if found.says is HomeSays.FRESH and branch.says is NodeSays.PREPARED:
        return "once it is older than the grace period, settling aborts it at home and rolls it back"
    return _NEXT[branch.verdict.action]


def _show_lines(found: Evidence) -> Iterator[str]:
    yield f"{found.gid}: {'settled' if found.settled else 'not settled'}"
    yield f"home {found.home or '(not known)'}: {_home_text(found)}"
    for name, row in found.rows.items():
        bound = ", ".join(f"{number} on {node}" for number, node in row.participants.items())
        reason = f"; {row.reason}" if row.reason else ""
        yield f"  decision row on {name}: {row.says.value}, {age(row.age_s)} old; branches: {bound or 'none'}{reason}"
    for branch in found.branches:
        since = f" for {age(branch.age_s)}" if branch.age_s is not None else ""
        yield f"branch {branch.branch} on {branch.node}: {branch.says.value}{since}"
        yield f"  case {branch.verdict.label}: {branch.verdict.why}"
        yield f"  next: {_next(found, branch)}"
    for name, why in found.silent.items():
        yield f"node {name} could not be asked: {why}"


def run_resolve(arguments: argparse.Namespace) -> int:
    """See the command's help."""
    config = configuration(arguments)
    if not arguments.reason.strip():
        raise ConfigError("--reason is empty", hint="say why, for those who will ask later")
    order = run_async(_plan(config, arguments))
    if not arguments.yes and not _confirmed(order):
        note("nothing was done")
        return Exit.FINDING
    outcome = run_async(_carry_out(config, order, arguments.reason.strip()))
    result = {
        "gid": order.gid,
        "decision": outcome.state,
        "written_at": order.at,
        "why": order.why,
        "reason": arguments.reason.strip(),
        "finished": _finished(order, outcome),
        "pending": list(outcome.pending),
        "strays": list(outcome.strays),
    }
    tell(arguments, result, _resolve_lines(order, outcome))
    if outcome.strays:
        return Exit.FINDING
    return Exit.IN_DOUBT if outcome.pending else Exit.FINE


async def _plan(config: Config, arguments: argparse.Namespace) -> Plan:
    async with reach(config) as engine:
        return await plan(engine, arguments.gid, commit=arguments.commit, at=arguments.home)


async def _carry_out(config: Config, order: Plan, reason: str) -> Outcome:
    async with reach(config) as engine:
        return await carry_out(engine, order, reason)


def _confirmed(order: Plan) -> bool:
    """Ask on the terminal. Raises ConfigError where there is none."""
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to confirm on", hint="add --yes if you are sure")
    branches = ", ".join(f"{number} on {node}" for number, (node, _) in order.prepared.items())
    note(f"{order.gid}: {order.why}.")
    note(f"node {order.at} gets the decision to {'commit' if order.commit else 'abort'}, for ever;")
    note(f"then the prepared branches are finished by it: {branches or 'none'}.")
    if order.at != order.home:
        note(f"If home {order.home} ever comes back with another decision, this transaction is torn.")
    print("Type yes to do that: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() == "yes"


def _finished(order: Plan, outcome: Outcome) -> list[str]:
    return sorted({node for node, _ in order.prepared.values()} - {*outcome.pending, *outcome.strays})


def _resolve_lines(order: Plan, outcome: Outcome) -> Iterator[str]:
    yield f"{order.gid}: {outcome.state} by your order, written on node {order.at}"
    if finished := _finished(order, outcome):
        yield f"{'committed' if order.commit else 'rolled back'}: {', '.join(finished)}"
    if outcome.pending:
        yield f"not finished yet: {', '.join(outcome.pending)}; give the same order again"
    if outcome.strays:
        yield f"{count(len(outcome.strays), 'branch', 'branches')} ended the other way: {', '.join(outcome.strays)}"
