"""``nodoubt bench``: measure against the peers."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodoubt.bench.work import Options, WorkNotDone
from nodoubt.errors import ConfigError

if TYPE_CHECKING:
    from nodoubt.bench.summary import Summary

SCENARIOS = (
    *("postgresql+postgresql", "postgresql+mariadb", "one-node"),
    *("gate", "openings", "opening", "serializable", "settle"),
)
NEEDS = ("asyncpg", "sqlalchemy", "matplotlib")
DEFAULTS = Options()


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "bench",
        help="measure against the peers, in one run",
        description="Measure nodoubt beside its peers on servers of its own, in interleaved rounds.",
        epilog="Exit code 0 when all was measured, 1 when a contestant did not do its work or, with --check, when a"
        " target was missed.",
    )
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="run this one (repeat for more)")
    parser.add_argument("--rounds", type=_count, default=DEFAULTS.rounds, help="rounds that count (%(default)s)")
    parser.add_argument("--seconds", type=_seconds, default=DEFAULTS.seconds, help="of each lap (%(default)s)")
    parser.add_argument("--clients", type=_count, default=DEFAULTS.clients, help="at once (%(default)s)")
    parser.add_argument("--branches", type=_count, default=DEFAULTS.branches, help="to settle (%(default)s)")
    parser.add_argument("--seed", type=int, default=DEFAULTS.seed, help="of the keys drawn (%(default)s)")
    parser.add_argument(
        "--nodes",
        nargs="+",
        metavar="NAME=URL",
        default=[],
        help="use these empty databases instead of servers of our own; nodoubt's tables are made there and stay",
    )
    parser.add_argument("--plot", type=Path, default=Path("bench.png"), help="where the plot goes (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the page")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, draw. Raises ConfigError before anything is measured."""
    options = _options(arguments)
    try:
        if arguments.scenario:
            summary = measure(options, arguments.scenario)
        else:
            summary = measure(options, _fitting(options), leave_out=True)
    except WorkNotDone as error:
        print(f"nodoubt bench: {error}", file=sys.stderr)
        return 1
    from nodoubt.bench.plot import draw
    from nodoubt.bench.report import page

    summary.plot = str(arguments.plot)
    draw(summary, arguments.plot)
    print(json.dumps(summary.as_json(), indent=2) if arguments.json else page(summary))
    _say(f"the plot is in {arguments.plot}")
    return int(arguments.check and not summary.all_met)


def measure(options: Options, scenarios: list[str], *, leave_out: bool = False) -> Summary:
    """Run the scenarios one after another in a loop of their own, uvloop's when it is installed.

    What this machine lacks a server or driver for is an error, or left out and said so.
    """
    from nodoubt.bench.machine import describe
    from nodoubt.bench.runner import RACES, run_race
    from nodoubt.bench.settling import NAME, run_settling
    from nodoubt.bench.summary import Summary, summarise

    loop, make_loop = _loop()
    summary = Summary(options=options, machine=describe(loop))
    races = {race.name: race for race in RACES}
    with asyncio.Runner(loop_factory=make_loop) as runner:
        for name in [name for name in (*races, NAME) if name in scenarios]:
            try:
                if name == NAME:
                    summary.settling = runner.run(run_settling(options, _say))
                else:
                    summary.races.append(summarise(runner.run(run_race(races[name], options, _say))))
            except ConfigError as error:
                if not leave_out:
                    raise
                summary.left_out[name] = error.message
                _say(f"{name} is left out: {error.message}")
    if len(summary.left_out) == len(scenarios):
        raise ConfigError("nothing could be measured", hint="; ".join(summary.left_out.values()))
    return summary


def _options(arguments: argparse.Namespace) -> Options:
    for package in NEEDS:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"the bench needs the package {package!r}", hint="pip install 'nodoubt[all,bench]'")
    nodes = {}
    for text in arguments.nodes:
        name, separator, url = text.partition("=")
        if not separator or "://" not in url:
            raise ConfigError(f"{name!r} is not a node", hint="write --nodes a=postgresql://… b=postgresql://…")
        nodes[name] = url
    folder = arguments.plot.resolve().parent
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder} for the plot")
    return Options(
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        clients=arguments.clients,
        branches=arguments.branches,
        seed=arguments.seed,
        nodes=nodes,
    )


def _fitting(options: Options) -> list[str]:
    """All scenarios, or those that the given nodes can serve."""
    from nodoubt.bench.grounds import chosen
    from nodoubt.bench.runner import RACES
    from nodoubt.bench.settling import KINDS_OF_NODES, NAME

    fitting = []
    for name, kinds in [*((race.name, race.kinds) for race in RACES), (NAME, KINDS_OF_NODES)]:
        try:
            if options.nodes:
                chosen(kinds, options.nodes)
        except ConfigError:
            continue
        fitting.append(name)
    if not fitting:
        raise ConfigError("no scenario fits these nodes", hint="name two PostgreSQL nodes, or one and a MariaDB node")
    return fitting


def _loop() -> tuple[str, Any]:
    """The loop's name and factory."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return "asyncio", None
    return "uvloop", uvloop.new_event_loop


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("must be more than 0")
    return number
