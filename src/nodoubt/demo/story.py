"""The whole demo: nodes, bank, crew, kills, settling, audit, cleaning up."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nodoubt.demo import bank, killer
from nodoubt.demo.crew import Crew
from nodoubt.demo.plain import PlainSession, connections
from nodoubt.demo.report import Result
from nodoubt.demo.view import Moment, View
from nodoubt.demo.worker import GRACE_S, SETTLE_EVERY_S, orders, settler_watch
from nodoubt.engine.asynchronous import AsyncTransactionManager
from nodoubt.engine.config import Config, load
from nodoubt.engine.worlds import AsyncWorld
from nodoubt.errors import NodoubtError
from nodoubt.nodes.registry import make_node

#: How long the end may take to settle what is left.
SETTLE_TIMEOUT_S = 20.0
SETTLE_PAUSE_S = 0.1
#: How often the money is counted during the run, and how long that may wait for locks.
COUNT_EVERY_S = 1.0
COUNT_TIMEOUT_S = 1.0
UNFINISHED_MAX = 1000
DEFAULT_NODES = ("a", "b", "c")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for. No ``nodes``: three SQLite files in a temporary folder."""

    nodes: Mapping[str, str]
    domain: str
    seconds: float
    workers: int
    kills: int
    seed: int
    unprotected: bool
    keep: bool
    replace: bool


async def tell(options: Options, view: View) -> Result:
    """Run the demo. Raises NodoubtError when it cannot be run."""
    with _home_of_files(options) as (nodes, folder):
        config = load(nodes, domain=options.domain)
        await _install(config)
        async with connections(config.nodes) as sessions:
            kinds = {node: session.kind for node, session in sessions.items()}
            for node, session in sessions.items():
                await bank.found(session, node, replace=options.replace)
        view.say(_opening(options, kinds))
        dice = random.Random(options.seed)
        crew = Crew(
            lambda number: orders(nodes, options.domain, options.seed + number, unprotected=options.unprotected), dice
        )
        run = _Run(options, config, crew, view, dice)
        try:
            await (run.unprotected() if options.unprotected else run.protected())
        finally:
            await crew.end()
            view.clear()
        result = await _close(options, config, run, kinds)
        if folder is not None:
            _say_where(result, folder, options)
    return result


def _opening(options: Options, kinds: Mapping[str, str]) -> str:
    how = "with plain commits" if options.unprotected else "with nodoubt"
    return (
        f"{options.workers} workers transfer money between {', '.join(kinds)} for {options.seconds:g} s {how};"
        f" {options.kills} of them will be killed (seed {options.seed})"
    )


@contextmanager
def _home_of_files(options: Options) -> Iterator[tuple[Mapping[str, str], Path | None]]:
    """The nodes: those that were named, or files in a folder that is removed unless the result says to look there."""
    if options.nodes:
        yield options.nodes, None
        return
    folder = Path(tempfile.mkdtemp(prefix="nodoubt-demo-"))
    nodes = {name: f"sqlite:///{folder / name}.db" for name in DEFAULT_NODES}
    lines = [f'domain = "{options.domain}"', "[nodes]", *(f'{name} = "{url}"' for name, url in nodes.items())]
    (folder / "nodoubt.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    keep = _Keep()
    try:
        yield nodes, folder
        keep.folder = (folder / _KEPT).exists()
    except NodoubtError:
        raise
    finally:
        if not keep.folder:
            shutil.rmtree(folder, ignore_errors=True)
