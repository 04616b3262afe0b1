"""``nodoubt sim --every-call``: scripted transactions of which each call fails once."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from nodoubt.cli.common import Exit, jobs, tell
from nodoubt.errors import ConfigError

if TYPE_CHECKING:
    from nodoubt.sim.every_call import Tally

#: Failures that are printed; the rest are mostly the same.
SHOWN_MAX = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    """Register the options."""
    group = parser.add_argument_group("every call fails once")
    group.add_argument(
        "--every-call", nargs="?", const="", metavar="RUN", help="all scripted transactions, or one run with its trace"
    )
    group.add_argument("--branches", type=int, default=2, metavar="N", help="scripts of up to so many (default: 2)")
    group.add_argument("--pairs", type=int, default=2000, metavar="N", help="random pairs of failures (default: 2000)")


def run(arguments: argparse.Namespace) -> int:
    """Run them; returns the exit code. Raises ConfigError."""
    if not 1 <= arguments.branches <= 3:
        raise ConfigError(f"--branches: {arguments.branches} is not 1, 2 or 3")
    return _replay(arguments) if arguments.every_call else _all(arguments)


def _replay(arguments: argparse.Namespace) -> int:
    from nodoubt.sim.every_call import replay

    result = replay(arguments.every_call, arguments.mutant)
    verdict = [f"VIOLATED: {violation}" for violation in result.violations] or ["nothing was violated"]
    struck = [f"failed: {strike}" for strike in result.struck] or ["nothing failed"]
    found = {"failed": result.struck, "told": result.told, "violations": result.violations, "trace": result.lines}
    tell(arguments, found, [*result.lines, *struck, f"the caller was told: {result.told or 'nothing'}", *verdict])
    return Exit.FINDING if result.violations else Exit.FINE


def _all(arguments: argparse.Namespace) -> int:
    from nodoubt.sim.every_call import explore

    began = time.monotonic()
    tally = explore(
        branches=arguments.branches,
        pairs_count=arguments.pairs,
        seed=arguments.first or 0,
        jobs=jobs(arguments),
        mutant=arguments.mutant,
        progress=_progress,
    )
    lines = [f"{count:>9,}  {what}" for what, count in sorted(tally.struck.items())]
    for story, violations in sorted(tally.failures.items())[:SHOWN_MAX]:
        lines += [f'nodoubt sim --every-call "{story}"', *(f"  {violation}" for violation in violations)]
    deepest = ", ".join(f"{site} {number}" for site, number in sorted(tally.deepest.items()))
    lines.append(
        f"{tally.scripts} scripts, {tally.runs:,} runs in {time.monotonic() - began:.0f} s; the last that failed: {deepest};"
        f" {len(tally.failures)} runs went wrong; never happened: {', '.join(tally.unreached()) or 'nothing'}"
    )
    result = {
        "scripts": tally.scripts,
        "runs": tally.runs,
        "failed": tally.struck,
        "deepest": tally.deepest,
        "told": tally.told,
        "failures": tally.failures,
    }
    tell(arguments, result, lines)
    if tally.failures:
        return Exit.FINDING
    return Exit.UNREACHED if tally.unreached() else Exit.FINE


def _progress(tally: Tally) -> None:
    if sys.stderr.isatty():
        print(f"\r{tally.scripts} scripts, {tally.runs} runs\x1b[K", end="", file=sys.stderr, flush=True)
