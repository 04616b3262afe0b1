"""``nodoubt demo``: kill the workers of a bank and count the money."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys

from nodoubt.cli.common import EXIT_CODES, Exit, add_output_options, tell
from nodoubt.demo.options import DOMAIN, KILLS, SECONDS, SETTLE_TIMEOUT_S, WORKERS, Options
from nodoubt.demo.view import View
from nodoubt.errors import ConfigError

_TEXT = """\
A bank has its accounts on several databases. Workers transfer money between them and are killed with kill -9 at random
moments, half of them in the middle of a commit. At the end every coin is counted, with plain SQL."""
_END = f"""\
examples:
  nodoubt demo
  nodoubt demo --unprotected
  nodoubt demo --seconds 30 --nodes orders=postgresql://localhost/orders stock=mariadb://localhost/stock

{EXIT_CODES}"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "demo",
        help="kill the workers of a bank and count the money",
        description=_TEXT,
        epilog=_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--nodes",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=URL",
        help="two or more databases to run on (default: three SQLite files, removed at the end)",
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"how long (default: {SECONDS:g})")
    parser.add_argument("--workers", type=int, default=WORKERS, help=f"worker processes (default: {WORKERS})")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"how many are killed (default: {KILLS})")
    parser.add_argument("--seed", type=int, help="draws moments, victims and amounts (default: a new one)")
    parser.add_argument(
        "--unprotected", action="store_true", help="for contrast: plain commits, one node after the other"
    )
    parser.add_argument("--domain", default=DOMAIN, help=f"nodoubt's domain on the nodes (default: {DOMAIN})")
    parser.add_argument(
        "--settle-timeout",
        type=float,
        default=SETTLE_TIMEOUT_S,
        metavar="SECONDS",
        help=f"how long the end may take to settle what is left (default: {SETTLE_TIMEOUT_S:g})",
    )
    parser.add_argument("--keep", action="store_true", help="leave the demo's tables, or files, for a look")
    parser.add_argument("--replace", action="store_true", help="drop the tables of a demo that was killed")
    add_output_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code. Raises NodoubtError when the demo cannot be run."""
    from nodoubt.demo import story

    result = asyncio.run(story.tell(_options(arguments), View(sys.stderr)))
    tell(arguments, result.as_json(), [result.as_text()])
    if result.ok:
        return Exit.FINE
    return Exit.IN_DOUBT if result.pending and (result.total_after is None or not result.lost) else Exit.FINDING


def _options(arguments: argparse.Namespace) -> Options:
    """Check the arguments. Raises ConfigError."""
    nodes: dict[str, str] = {}
    for text in arguments.nodes:
        name, equals, url = text.partition("=")
        if not equals or not url:
            raise ConfigError(
                f"--nodes: {text!r} is not NAME=URL", hint="for example orders=postgresql://localhost/orders"
            )
        if name in nodes:
            raise ConfigError(f"--nodes: {name!r} is named twice")
        nodes[name] = url
    if len(nodes) == 1:
        raise ConfigError("--nodes: a transfer needs two nodes at least, and only one was named")
    if not arguments.seconds > 0 or arguments.seconds == float("inf"):
        raise ConfigError(f"--seconds: {arguments.seconds:g} is no time to run")
    if arguments.workers < 1:
        raise ConfigError(f"--workers: {arguments.workers} is not a number of workers", hint="at least 1")
    if arguments.kills < 0:
        raise ConfigError(f"--kills: {arguments.kills} is not a number of kills", hint="0 or more")
    if not arguments.settle_timeout >= 0:
        raise ConfigError(f"--settle-timeout: {arguments.settle_timeout:g} is no time", hint="0 or more seconds")
    return Options(
        nodes=nodes,
        seed=secrets.randbelow(10**6) if arguments.seed is None else arguments.seed,
        domain=arguments.domain,
        seconds=arguments.seconds,
        workers=arguments.workers,
        kills=arguments.kills,
        unprotected=arguments.unprotected,
        settle_timeout_s=arguments.settle_timeout,
        keep=arguments.keep,
        replace=arguments.replace,
    )
