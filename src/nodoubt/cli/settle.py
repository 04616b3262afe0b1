"""`nodoubt settle`: bring what was left behind to its decision, once or for ever."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from nodoubt.cli.common import Exit, add_command, configuration, count, doubt_lines, note, run_async, tell
from nodoubt.engine.engine import Engine
from nodoubt.engine.reach import reach
from nodoubt.engine.settle import AT_ONCE, SettleReport

EXAMPLES = (
    "nodoubt settle",
    "nodoubt settle --grace 0",
    "nodoubt settle --watch --every 5",
)


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "settle",
        summary="finish what crashed processes left behind",
        description="One round over all nodes: finds prepared branches, asks each one's home for the decision, and "
        "carries it out. Safe at any time, from any machine, however many run at once. A branch whose home "
        "holds no decision is aborted there first, so that its owner, should it still live, cannot commit "
        "any more; the grace period only saves such owners from that.\n\nThe exit code is 1 if a person "
        "must look, else 3 if a node could not be asked, else 4 if something still waits, else 0. With "
        "--watch it is 0 after SIGINT or SIGTERM.",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "--grace",
        type=_seconds,
        metavar="SECONDS",
        help="leave alone what is younger (the configured grace_s: 30 by default); 0 when no application is running",
    )
    parser.add_argument("--watch", action="store_true", help="go on until SIGINT or SIGTERM, telling what changes")
    parser.add_argument(
        "--every", type=_period, metavar="SECONDS", help="with --watch: how often (the configured settle_every_s: 10)"
    )
    parser.set_defaults(run=run)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError(text)
    return seconds


def _period(text: str) -> float:
    if not (seconds := _seconds(text)):
        raise ValueError(text)
    return seconds


_seconds.__name__ = _period.__name__ = "number of seconds"


def run(arguments: argparse.Namespace) -> int:
    """See the command's help."""
    config = configuration(arguments)

    async def go() -> int:
        async with reach(config) as engine:
            return await (_watch(engine, arguments) if arguments.watch else _once(engine, arguments))

    return run_async(go())


async def _once(engine: Engine, arguments: argparse.Namespace) -> int:
    report = await engine.settle(grace_s=arguments.grace, progress=_progress)
    tell(arguments, _entry(report), _lines(report))
    return _code(report)


async def _watch(engine: Engine, arguments: argparse.Namespace) -> int:
    every_s = engine.settings.settle_every_s if arguments.every is None else arguments.every
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    note(f"settling every {every_s:g} s; stop with Ctrl-C")
    before: object = None
    while not stop.is_set():
        report = await engine.settle(grace_s=arguments.grace, progress=_progress)
        state = _state(report)
        if state != before or report.settled or report.completed:
            tell(arguments, _entry(report), [_summary(report)])
        before = state
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), every_s)
    return Exit.FINE


def _state(report: SettleReport) -> object:
    """What is left, without ages: a change of it is worth a line."""
    left = {(doubt.gid, doubt.branch, doubt.case) for doubt in [*report.waiting, *report.strays]}
    return left, report.young, sorted(report.unreachable), sorted(report.foreign.items())


def _progress(done: int, total: int) -> None:
    if total > AT_ONCE:
        note(f"{done} of {count(total, 'transaction')} looked at")


def _code(report: SettleReport) -> Exit:
    if report.strays:
        return Exit.FINDING
    if report.unreachable:
        return Exit.UNREACHABLE
    return Exit.IN_DOUBT if report.waiting or report.young else Exit.FINE


def _entry(report: SettleReport) -> dict[str, Any]:
    return asdict(report)


def _summary(report: SettleReport) -> str:
    parts = [f"{report.committed} committed, {report.rolled_back} rolled back, {report.completed} marked complete"]
    if report.young:
        parts.append(f"{report.young} younger than the grace period")
    if report.waiting:
        parts.append(f"{len(report.waiting)} waiting")
    if report.strays:
        parts.append(f"{len(report.strays)} for a person")
    if report.unreachable:
        parts.append(f"no answer from {', '.join(report.unreachable)}")
    return "; ".join(parts)


def _lines(report: SettleReport) -> Iterator[str]:
    yield _summary(report)
    if report.waiting:
        yield "waiting, tried again by every later round:"
        yield from doubt_lines(report.waiting)
    if report.strays:
        yield "a person must look (nodoubt tx show GID):"
        yield from doubt_lines(report.strays)
    for name, why in report.unreachable.items():
        yield f"node {name} could not be asked: {why}"
    for name, number in report.foreign.items():
        yield f"node {name} holds {count(number, 'prepared transaction')} of others, left alone"
