"""``nodoubt sim``: run the library on simulated databases, under faults, a seed at a time."""

from __future__ import annotations

import argparse
import hashlib
import secrets
import sys
import time
from typing import TYPE_CHECKING

from nodoubt.cli import every_call
from nodoubt.cli.common import EXIT_CODES, Exit, add_jobs_option, add_output_options, jobs, note, tell
from nodoubt.errors import ConfigError

if TYPE_CHECKING:
    from nodoubt.sim.explore import Tally
    from nodoubt.sim.plan import Plan

_TEXT = """\
The engine runs unmodified on a virtual clock, network and disk, against simulated databases, while processes and servers are
killed, paused and cut off, packets and forced writes are lost, clocks jump and operators interfere. Then everything heals, must
settle by itself, and is judged. One seed is one history: the same on every machine, byte for byte."""
_END = f"""\
examples:
  nodoubt sim --runs 10000
  nodoubt sim --minutes 10 --jobs 2 --require-all
  nodoubt sim --seed 1206
  nodoubt sim --every-call --branches 3
  nodoubt sim --every-call "commit postgresql+sqlite; call 12: error before"

{EXIT_CODES}"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "sim",
        help="run the library on simulated databases, under faults",
        description=_TEXT,
        epilog=_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    replay = parser.add_argument_group("one history")
    replay.add_argument("--seed", type=int, help="replay this one and print its trace")
    replay.add_argument("--transactions", type=int, metavar="N", help="with so many transactions only")
    replay.add_argument("--faults", metavar="KIND,…", help='with these kinds of faults only ("" for none)')
    many = parser.add_argument_group("many histories")
    many.add_argument("--runs", type=int, metavar="N", help="how many (default: 1000, or as many as the time allows)")
    many.add_argument("--minutes", type=float, metavar="M", help="for how long")
    many.add_argument("--first", type=int, metavar="SEED", help="the first seed (default: a random one)")
    add_jobs_option(many)
    many.add_argument("--require-all", action="store_true", help="fail when something was never reached")
    many.add_argument("--hash", action="store_true", help="print one hash of all traces; runs in this process alone")
    every_call.add_options(parser)
    parser.add_argument("--mutant", default="", metavar="NAME", help="make this mistake, which must be caught")
    add_output_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code. Raises ConfigError."""
    for name in ("runs", "minutes", "transactions"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise ConfigError(f"--{name}: {value:g} is not more than 0")
    if arguments.every_call is not None:
        return every_call.run(arguments)
    if arguments.seed is not None:
        return _replay(arguments)
    return _hash(arguments) if arguments.hash else _explore(arguments)


def _replay(arguments: argparse.Namespace) -> int:
    from nodoubt.sim.mutants import switched_on
    from nodoubt.sim.run import run as run_history

    plan = _plan(arguments)
    with switched_on(arguments.mutant):
        history = run_history(plan, traced=True)
    result = {"seed": plan.seed, "hash": history.hash, "violations": history.violations, "trace": history.lines}
    verdict = [f"VIOLATED: {violation}" for violation in history.violations] or ["nothing was violated"]
    tell(arguments, result, [*plan.lines(), *history.lines, *verdict, f"trace {history.hash}"])
    return Exit.FINDING if history.violations else Exit.FINE


def _plan(arguments: argparse.Namespace) -> Plan:
    from nodoubt.sim.plan import KINDS, draw

    faults = None
    if arguments.faults is not None:
        faults = [kind for kind in arguments.faults.split(",") if kind]
        for kind in faults:
            if kind not in KINDS:
                raise ConfigError(f"--faults: no fault is called {kind!r}", hint=f"known are: {', '.join(KINDS)}")
    return draw(arguments.seed).shrunk(transactions=arguments.transactions, faults=faults)


def _hash(arguments: argparse.Namespace) -> int:
    from nodoubt.sim.plan import draw
    from nodoubt.sim.run import run as run_history

    first, runs = _first(arguments), arguments.runs or 1000
    digest = hashlib.sha256()
    for seed in range(first, first + runs):
        digest.update(run_history(draw(seed), traced=True).hash.encode())
    result = {"first": first, "runs": runs, "hash": digest.hexdigest()}
    tell(arguments, result, [f"{runs} seeds from {first}: {digest.hexdigest()}"])
    return Exit.FINE


def _explore(arguments: argparse.Namespace) -> int:
    from nodoubt.sim import explore, hits

    runs = arguments.runs if arguments.runs or arguments.minutes else 1000
    began = time.monotonic()
    tally = explore.explore(
        first=_first(arguments),
        runs=runs,
        seconds=60 * arguments.minutes if arguments.minutes else float("inf"),
        jobs=jobs(arguments),
        mutant=arguments.mutant,
        progress=_progress,
    )
    seconds = time.monotonic() - began
    zeros = hits.zeros(tally.hits)
    lines = hits.table(tally.hits)
    failures = {}
    for seed, violations in sorted(tally.failures.items()):
        lines += [f"seed {seed}:", *(f"  VIOLATED: {violation}" for violation in violations)]
        failures[seed] = list(violations)
    commands = _shrunk(sorted(tally.failures)[:1], arguments.mutant)
    lines += [f"the first, made small: {command}" for command in commands]
    lines.append(
        f"{tally.runs} histories in {seconds:.0f} s ({tally.runs / seconds:.0f}/s, {tally.runs / tally.cpu_s:.0f}/s per core),"
        f" {tally.attempts} transactions, {tally.committed} committed, {len(failures)} histories failed;"
        f" never reached: {', '.join(zeros) or 'nothing'}"
    )
    result = {
        "runs": tally.runs,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(tally.cpu_s, 1),
        "transactions": tally.attempts,
        "committed": tally.committed,
        "failures": failures,
        "reproduce": commands,
        "never_reached": zeros,
        "hits": {f"{group}: {name}": count for (group, name), count in sorted(tally.hits.items())},
    }
    tell(arguments, result, lines)
    if failures:
        return Exit.FINDING
    return Exit.UNREACHED if zeros and arguments.require_all else Exit.FINE


def _shrunk(seeds: list[int], mutant: str) -> list[str]:
    from nodoubt.sim.explore import command, shrink
    from nodoubt.sim.plan import draw

    return [command(shrink(draw(seed), mutant), mutant) for seed in seeds]


def _first(arguments: argparse.Namespace) -> int:
    return secrets.randbelow(10**9) if arguments.first is None else int(arguments.first)


def _progress(tally: Tally, seconds: float) -> None:
    text = f"{tally.runs} histories, {tally.runs / seconds:.0f}/s, {len(tally.failures)} failed"
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
    elif tally.runs % 2000 == 0:
        note(text)
