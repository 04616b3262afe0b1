"""``nodoubt prove``: the means of proof, for whoever wants to see them at work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nodoubt.cli.common import EXIT_CODES, Exit, add_jobs_option, add_output_options, jobs, tell

if TYPE_CHECKING:
    from nodoubt.prove.explorer import Findings, Scope

_TEXT = """\
Run the production engine through every interleaving of one owner and its settlers over small models of the databases: every
answer lost, late or repeated, every crash, restart, pause and purge. Each state is checked against the invariants, and from
each one a settled state must be in reach. Without options, all standard sizes, some minutes."""
_END = f"""\
examples:
  nodoubt prove enumerate
  nodoubt prove enumerate --branches 3 --settlers 1 --faults loss crash

{EXIT_CODES}"""
#: The names of `nodoubt.prove.databases.Fault`.
FAULTS = ("loss", "silence", "lateness", "copies", "refusal", "busy", "crash")


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the commands."""
    family = subparsers.add_parser("prove", help="show that the protocol is right").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    parser = family.add_parser(
        "enumerate",
        help="visit every state of a small world",
        description=_TEXT,
        epilog=_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--branches", type=int, choices=(2, 3), help="of the transaction, home's included")
    parser.add_argument("--settlers", type=int, choices=(0, 1, 2), help="at once, beside the owner (default: 1)")
    parser.add_argument("--faults", nargs="*", choices=FAULTS, help="what may go wrong (default: everything)")
    parser.add_argument(
        "--attached", action="store_true", help="prepared branches belong to their sessions, as on MariaDB"
    )
    add_jobs_option(parser)
    add_output_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Explore, print, and tell the story of what broke."""
    results, ok = [], True
    for findings, told in _explored(_scopes(arguments), jobs(arguments)):
        _clear()
        results.append(_as_json(findings, told))
        ok = ok and findings.ok
        if not arguments.json:
            tell(arguments, {}, [_line(findings), *told])
    tell(arguments, {"ok": ok, "worlds": results}, [])
    return Exit.FINE if ok else Exit.FINDING


def _scopes(arguments: argparse.Namespace) -> tuple[Scope, ...]:
    from nodoubt.prove.databases import Fault
    from nodoubt.prove.explorer import STANDARD, Scope

    chosen = (arguments.branches, arguments.settlers, arguments.faults)
    if chosen == (None, None, None) and not arguments.attached:
        return STANDARD
    return (
        Scope(
            branches=arguments.branches or 2,
            settlers=1 if arguments.settlers is None else arguments.settlers,
            faults=frozenset(Fault if arguments.faults is None else [Fault[name.upper()] for name in arguments.faults]),
            attached=arguments.attached,
        ),
    )


def _explored(scopes: Sequence[Scope], jobs: int) -> Iterator[tuple[Findings, list[str]]]:
    """What was found in each world, and the story of what broke there, in the order of the scopes; in several processes."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(min(jobs, len(scopes)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(_explore, scopes)


def _explore(scope: Scope) -> tuple[Findings, list[str]]:
    from nodoubt.prove.explorer import World, explore
    from nodoubt.prove.story import tell as story

    world = World(scope)
    findings = explore(world, _progress)
    return findings, story(world, findings)


def _title(scope: Scope) -> str:
    from nodoubt.prove.databases import Fault

    names = [fault.name.lower() for fault in Fault if fault in scope.faults]
    faults = "all faults" if len(names) == len(Fault) else ", ".join(names) or "pauses alone"
    kind = ", attached" if scope.attached else ""
    return f"{scope.branches} branches, {scope.settlers} settler{'s' * (scope.settlers != 1)}, {faults}{kind}"


def _line(findings: Findings) -> str:
    return (
        f"{_title(findings.scope)}: {findings.states} states, {findings.transitions} transitions,"
        f" depth {findings.depth}, {findings.seconds:.1f} s: {'all invariants hold' if findings.ok else 'BROKEN'}"
    )


def _as_json(findings: Findings, told: list[str]) -> dict[str, Any]:
    return {
        "branches": findings.scope.branches,
        "settlers": findings.scope.settlers,
        "faults": sorted(fault.name.lower() for fault in findings.scope.faults),
        "attached": findings.scope.attached,
        "states": findings.states,
        "transitions": findings.transitions,
        "depth": findings.depth,
        "seconds": round(findings.seconds, 1),
        "wrong": findings.wrong,
        "story": told,
    }


def _progress(findings: Findings) -> None:
    if sys.stderr.isatty():
        line = f"{_title(findings.scope)}: depth {findings.depth}, {findings.states} states, {findings.seconds:.0f} s"
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
