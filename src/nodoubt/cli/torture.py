"""``nodoubt torture``: real servers under every fault that can be had, and a verdict."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodoubt.cli.common import EXIT_CODES, Exit, add_output_options, named_urls, note, tell
from nodoubt.errors import ConfigError

if TYPE_CHECKING:
    from nodoubt.torture.options import Options

EXAMPLES = (
    "nodoubt torture --minutes 10 --report torture.html",
    "nodoubt torture --own postgresql,mariadb --seconds 30 --seed 7 --faults worker-kill,network",
    "nodoubt torture --isolation serializable",
    "nodoubt torture --unprotected",
    "nodoubt torture --nodes orders=postgresql://localhost/scratch stock=mariadb://localhost/scratch",
)
_TEXT = """\
Workers transfer money, append to lists, view them and reserve seats on several databases, while processes are killed and
stopped, the network loses, stalls and delays packets, and servers crash, hang, run out of disk and fail to write. Then
everything is settled, read with plain SQL and judged. By default on servers of its own; --nodes names databases that hold nothing
of value."""


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "torture",
        help="real servers under every fault, and a verdict",
        description=_TEXT,
        epilog="\n".join(["examples:", *(f"  {example}" for example in EXAMPLES), "", EXIT_CODES]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--nodes", nargs="+", action="extend", metavar="NAME=URL", help="two or more disposable databases"
    )
    where.add_argument(
        "--own",
        metavar="KIND,KIND",
        default="postgresql,postgresql,mariadb",
        help="nodes of its own: postgresql, mariadb, mariadb-log (with a binary log), mysql, sqlite (default: %(default)s)",
    )
    long = parser.add_mutually_exclusive_group()
    long.add_argument("--seconds", type=float, default=60.0, help="how long (default: %(default)g)")
    long.add_argument("--minutes", type=float, help="how long")
    parser.add_argument("--workers", type=int, default=4, help="worker processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="draws faults, moments, victims and jobs (default: a new one)")
    parser.add_argument(
        "--faults", metavar="KIND,KIND", help="only these kinds of faults (default: all that can be had here)"
    )
    parser.add_argument(
        "--rarity", type=float, default=1.0, help="how many times more seldom faults come (default: %(default)g)"
    )
    parser.add_argument(
        "--isolation",
        choices=("atomic", "snapshot", "serializable"),
        default="atomic",
        help="the level that transactions ask for, and what they see is judged by (default: %(default)s)",
    )
    parser.add_argument("--unprotected", action="store_true", help="for contrast: plain commits")
    parser.add_argument("--yes", action="store_true", help="don't ask before writing to --nodes")
    parser.add_argument("--replace", action="store_true", help="drop the tables of a run that was killed")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write a page with the timeline")
    parser.add_argument("--history", type=Path, metavar="FILE.jsonl.gz", help="write the history of the lists")
    add_output_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code. Raises NodoubtError when it cannot be run."""
    from nodoubt.demo.view import View
    from nodoubt.torture import page, story

    options = _options(arguments)
    if options.nodes and not arguments.yes:
        _ask(options)
    result = asyncio.run(story.run(options, View(sys.stderr)))
    if options.report is not None:
        page.write(result, options.report)
        result.files = [*result.files, f"the report is in {options.report}"]
    tell(arguments, result.as_json(), [result.as_text()])
    if result.ok:
        return Exit.FINE
    return Exit.IN_DOUBT if result.pending and not result.wrong else Exit.FINDING


def _ask(options: Options) -> None:
    """Raises ConfigError unless a person says yes."""
    from urllib.parse import urlsplit

    note("These databases will be written to, and transactions there left in doubt for a while:")
    for name, url in options.nodes.items():
        parts = urlsplit(url)
        note(f"  {name}: {parts.scheme} database {parts.path.lstrip('/')!r} at {parts.hostname or 'this machine'}")
    if not sys.stdin.isatty():
        raise ConfigError("nobody was asked whether these databases may be written to", hint="say --yes")
    if input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ConfigError("not done")


def _options(arguments: argparse.Namespace) -> Options:
    """Check the arguments. Raises ConfigError."""
    from nodoubt.nodes.contract import Isolation
    from nodoubt.torture.options import KINDS, Kind, Options

    nodes = named_urls(arguments.nodes or ())
    if len(nodes) == 1:
        raise ConfigError("--nodes: a transaction over several nodes needs two at least")
    own = arguments.own.split(",")
    if len(own) < 2 or not set(own) <= set(KINDS):
        raise ConfigError(f"--own: {arguments.own!r}", hint=f"two or more of {', '.join(KINDS)}, with commas between")
    seconds = arguments.seconds if arguments.minutes is None else 60 * arguments.minutes
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{seconds:g} seconds is no time to run")
    if not 0.1 <= arguments.rarity < float("inf"):
        raise ConfigError(f"--rarity: {arguments.rarity:g} is no rarity", hint="at least 0.1, and 1 by default")
    if arguments.workers < 1:
        raise ConfigError(f"--workers: {arguments.workers} is not a number of workers", hint="at least 1")
    try:
        faults = (
            tuple(Kind) if arguments.faults is None else tuple(map(Kind, filter(None, arguments.faults.split(","))))
        )
    except ValueError as error:
        raise ConfigError(f"--faults: {error}", hint=f"there are {', '.join(Kind)}") from None
    isolation = Isolation(arguments.isolation)
    if arguments.unprotected and isolation is not Isolation.ATOMIC:
        raise ConfigError("plain commits know no isolation between nodes", hint="leave out --isolation")
    for path in (arguments.report, arguments.history):
        if path is not None and not path.resolve().parent.is_dir():
            raise ConfigError(f"there is no folder {path.resolve().parent}")
    return Options(
        nodes=nodes,
        own=own,
        seed=secrets.randbelow(10**6) if arguments.seed is None else arguments.seed,
        seconds=seconds,
        workers=arguments.workers,
        faults=faults,
        rarity=arguments.rarity,
        isolation=isolation,
        unprotected=arguments.unprotected,
        replace=arguments.replace,
        report=arguments.report,
        history=arguments.history,
    )
