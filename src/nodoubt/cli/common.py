"""What all commands share: exit codes, the options that name nodes, and how results and errors are told.

Results go to stdout, for people or as one JSON object; everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import textwrap
from collections.abc import Coroutine, Iterable, Sequence
from enum import IntEnum
from typing import Any, NoReturn, TypeVar

from nodoubt.engine.config import Config, load
from nodoubt.engine.settle import Doubt
from nodoubt.errors import ConfigError, NodeUnavailable, NodoubtError, OutcomeUnknown

logger = logging.getLogger("nodoubt")
T = TypeVar("T")


class Exit(IntEnum):
    """The exit codes of every command; they don't change between versions."""

    FINE = 0
    FINDING = 1
    USAGE = 2
    UNREACHABLE = 3
    IN_DOUBT = 4
    UNREACHED = 5
    INTERRUPTED = 130


EXIT_CODES = """\
exit codes:
  0    fine: done, or nothing left to do
  1    what the command is about failed, or a person must look
  2    wrong usage or configuration; nothing was done
  3    a node could not be reached
  4    in doubt: something is not settled yet
  5    sim: nothing failed, but not everything that was to be reached was
  130  interrupted"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are told like all others."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, hint=f"see {self.prog} --help")


def add_command(
    subparsers: Any, name: str, *, summary: str, description: str, examples: Sequence[str]
) -> argparse.ArgumentParser:
    """Add a command that works on the configured nodes, with the options that all of these have."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description="\n\n".join(textwrap.fill(part, 96) for part in description.split("\n\n")),
        epilog="\n".join(["examples:", *(f"  {example}" for example in examples), "", EXIT_CODES]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_argument_group("which nodes")
    where.add_argument("--config", metavar="PATH", help="configuration file (NODOUBT_CONFIG, or nodoubt.toml)")
    where.add_argument(
        "--nodes", metavar="NAME=URL", nargs="+", action="extend", help="nodes, instead of a configuration file"
    )
    where.add_argument("--domain", metavar="NAME", help="the domain, instead of the configured one")
    add_output_options(parser)
    return parser


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command."""
    how = parser.add_argument_group("output")
    how.add_argument("--json", action="store_true", help="print one JSON object on stdout, and nothing else")
    how.add_argument("--verbose", action="store_true", help="log what happens, and show the traceback of an error")


def add_jobs_option(group: Any) -> None:
    """The option of every command that works in several processes."""
    group.add_argument("--jobs", type=int, metavar="N", help="processes (default: one for each processor)")


def jobs(arguments: argparse.Namespace) -> int:
    """How many processes to work in. Raises ConfigError."""
    if arguments.jobs is None:
        return len(os.sched_getaffinity(0))
    if arguments.jobs < 1:
        raise ConfigError(f"--jobs: {arguments.jobs} is not more than 0")
    return int(arguments.jobs)


def configuration(arguments: argparse.Namespace) -> Config:
    """Read the configuration that the options name. Raises ConfigError."""
    if arguments.nodes is None:
        return load(arguments.config, domain=arguments.domain)
    if arguments.config is not None:
        raise ConfigError("--config and --nodes exclude each other", hint="leave one of them out")
    return load(named_urls(arguments.nodes), domain=arguments.domain)


def named_urls(items: Iterable[str]) -> dict[str, str]:
    """The nodes that ``--nodes`` names. Raises ConfigError."""
    nodes: dict[str, str] = {}
    for item in items:
        name, equals, url = item.partition("=")
        if not equals:
            raise ConfigError(
                f"--nodes takes NAME=URL, not {item!r}", hint="other arguments stand before --nodes, or after --"
            )
        if name in nodes:
            raise ConfigError(f"node {name!r} is named twice", hint="give each node a name of its own")
        nodes[name] = url
    return nodes


def run_async(step: Coroutine[Any, Any, T]) -> T:
    """Run a command's work in a loop of its own."""
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(_leftover)
        return runner.run(step)


def _leftover(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A driver whose connecting was interrupted leaves futures that failed and that nobody waits for."""
    logger.debug("left over: %s", context.get("exception") or context.get("message"))


def tell(arguments: argparse.Namespace, result: dict[str, Any], lines: Iterable[str]) -> None:
    """Print a result: the object, or the lines for people."""
    if arguments.json:
        print(json.dumps(result, ensure_ascii=False), flush=True)
    else:
        for line in lines:
            print(line, flush=True)


def note(text: str) -> None:
    """Say something that is not the result."""
    print(text, file=sys.stderr, flush=True)


def tell_error(error: NodoubtError, *, as_json: bool) -> int:
    """Print a failure and return its exit code."""
    message = " ".join(str(error.message).split())
    if error.gid:
        message = f"{error.gid}: {message}"
    if as_json:
        print(json.dumps({"error": message, "hint": error.hint}, ensure_ascii=False), flush=True)
    else:
        note(f"nodoubt: {message}")
        if error.hint:
            note(f"  hint: {error.hint}")
    return exit_code(error)


def exit_code(error: NodoubtError) -> Exit:
    """The exit code of an error that ended a command."""
    match error:
        case ConfigError():
            return Exit.USAGE
        case NodeUnavailable():
            return Exit.UNREACHABLE if error.retryable else Exit.FINDING
        case OutcomeUnknown():
            return Exit.IN_DOUBT
        case _:
            return Exit.FINDING


def age(seconds: float) -> str:
    """Spell an age for people."""
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def doubt_lines(doubts: Iterable[Doubt]) -> list[str]:
    """A table of what is in doubt."""
    rows = [("GID", "AGE", "NODE", "BRANCH", "HOME", "CASE", "WHY")]
    rows += [(d.gid, age(d.age_s), d.node, str(d.branch), d.home, d.case, d.why) for d in doubts]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]


def count(number: int, one: str, many: str = "") -> str:
    """``1 node``, ``2 nodes``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def silence_stdout() -> None:
    """Whoever read stdout is gone: nothing may be written there when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
