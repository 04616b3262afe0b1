"""The `nodoubt` command: one file per family of commands.

Each family has ``add(subparsers)``, which registers its parsers with ``set_defaults(run=…)``; ``run(arguments)`` is the
work and returns the exit code. The exit codes are in ``common``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import sys
import traceback
from collections.abc import Sequence

from nodoubt.cli import bench, demo, doctor, init, judge, prove, settle, sim, torture, tx
from nodoubt.cli.common import EXIT_CODES, Exit, Parser, note, silence_stdout, tell_error
from nodoubt.errors import NodoubtError

_FAMILIES = (init, doctor, demo, tx, settle, bench, judge, prove, sim, torture)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises for what users, servers or networks do."""
    words = sys.argv[1:] if argv is None else list(argv)
    as_json, verbose = "--json" in words, "--verbose" in words
    logger, handler = logging.getLogger("nodoubt"), logging.StreamHandler(sys.stderr)
    # What a command finds is in its result; its log is for those who ask how it came about.
    handler.setLevel(logging.DEBUG if verbose else logging.CRITICAL)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    if verbose:
        logger.setLevel(logging.DEBUG)
    try:
        arguments = _parser().parse_args(words)
        code: int = arguments.run(arguments)
        return code
    except NodoubtError as error:
        if verbose:
            traceback.print_exc()
        return tell_error(error, as_json=as_json)
    except KeyboardInterrupt:
        note("nodoubt: interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        silence_stdout()
        return Exit.FINDING
    except SystemExit as end:  # argparse, after --help and --version
        return int(end.code or 0)
    except Exception as error:
        if verbose:
            traceback.print_exc()
        bug = NodoubtError(
            f"a bug in nodoubt: {type(error).__name__}: {error}",
            hint="please report it with what the same command prints with --verbose",
        )
        return tell_error(bug, as_json=as_json)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="nodoubt",
        description="One transaction over several databases that happens everywhere or nowhere.",
        epilog=f"Each command has a --help of its own.\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nodoubt {importlib.metadata.version('nodoubt')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for family in _FAMILIES:
        family.add(subparsers)
    return parser
