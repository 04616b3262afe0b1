"""The whole story: make nodes and bank, let the crew run, audit the books, clean up."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from nodoubt.demo import bank
from nodoubt.demo.crew import BankCrew
from nodoubt.demo.options import Options
from nodoubt.demo.plain import connections
from nodoubt.demo.report import Result
from nodoubt.demo.run import Run, settle_all
from nodoubt.demo.view import View
from nodoubt.demo.worker import orders
from nodoubt.engine.asynchronous import AsyncTransactionManager
from nodoubt.engine.config import Config, load
from nodoubt.engine.worlds import AsyncWorld
from nodoubt.errors import NodeUnavailable, NodoubtError
from nodoubt.nodes.registry import make_node

FILES = ("a", "b", "c")


async def tell(options: Options, view: View) -> Result:
    """Run the demo on the nodes that were named, or on files of its own. Raises NodoubtError when it cannot be run."""
    if options.nodes:
        result = await _run(options, options.nodes, view)
        if not result.ok and not options.unprotected:
            result.look = [
                f"To look at what is left: name these nodes in nodoubt.toml, with domain = {options.domain!r}, then",
                "nodoubt tx list",
            ]
        return result
    folder = Path(tempfile.mkdtemp(prefix="nodoubt-demo-"))
    keep = False
    try:
        nodes = _files(folder, options.domain)
        result = await _run(options, nodes, view)
        keep = options.keep or not (result.ok or options.unprotected)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    if keep:
        result.look = [f"The files are in {folder}", f"nodoubt tx list --config {folder / 'nodoubt.toml'}"]
    return result


def _files(folder: Path, domain: str) -> dict[str, str]:
    """Three SQLite nodes in a folder, and a configuration that names them."""
    nodes = {name: f"sqlite:///{folder / name}.db" for name in FILES}
    lines = [f'domain = "{domain}"', "", "[nodes]", *(f'{name} = "{url}"' for name, url in nodes.items())]
    (folder / "nodoubt.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return nodes


async def _run(options: Options, nodes: Mapping[str, str], view: View) -> Result:
    config = load(nodes, domain=options.domain)
    kinds = await install(config)
    money_before = await _found(options, config, nodes)
    view.say(
        f"{options.workers} workers transfer money between {', '.join(kinds)} for {options.seconds:g} s,"
        f" {'with plain commits' if options.unprotected else 'with nodoubt'};"
        f" {options.kills} will be killed (seed {options.seed})"
    )
    crew = BankCrew(
        lambda number: orders(nodes, options.domain, options.seed + number, unprotected=options.unprotected),
        random.Random(options.seed),
    )
    run = Run(options, crew, view, money_before)
    if options.unprotected:
        async with connections(config.nodes) as sessions:
            await run.unprotected(sessions)
    else:
        await run.protected(nodes)
    books = await _audit(config, run)
    result = Result(
        unprotected=options.unprotected,
        nodes=kinds,
        workers=options.workers,
        seed=options.seed,
        seconds=run.seconds,
        kills=crew.kills,
        kills_at=crew.kills_at,
        transactions=len(books.transfers) - len(books.halves) if books else len(crew.told_committed),
        aborted=crew.aborted,
        unknown=crew.unknown,
        # A branch counts when its transaction's owner was killed, and once, however many tried to settle it.
        settled=sum(gid in crew.orphans for gid, _ in crew.settled),
        total_before=money_before,
        total_after=books.total if books else None,
        settle_seconds=run.settle_seconds,
        pending=run.pending,
        failure=run.failure,
        halves=books.halves if books else (),
        missing=books.missing(crew.told_committed) if books else (),
        wrong=books.wrong if books else (),
    )
    await _leave(config, keep=options.keep or not (result.ok or options.unprotected))
    return result


async def install(config: Config) -> dict[str, str]:
    """Make nodoubt's own tables where they are missing; the kinds of the nodes."""
    kinds = {}
    for name, settings in config.nodes.items():
        node = make_node(name, config.domain, settings, AsyncWorld(), asynchronous=True)
        try:
            await node.install()
        except NodeUnavailable as error:
            raise NodeUnavailable(f"node {name!r}: {error.message}", hint=error.hint) from error
        finally:
            await node.close()
        kinds[name] = node.kind
    return kinds


async def _found(options: Options, config: Config, nodes: Mapping[str, str]) -> int:
    """Open the bank on every node, or on none; the money that it starts with."""
    async with connections(config.nodes) as sessions:
        for node, session in sessions.items():
            await bank.check_vacant(session, node, replace=options.replace)
    # What a killed demo left prepared would hold locks on the tables that are to be replaced.
    async with AsyncTransactionManager.open(nodes, domain=options.domain) as tm:
        await settle_all(tm, options.settle_timeout_s)
    async with connections(config.nodes) as sessions:
        for session in sessions.values():
            await bank.found(session)
        return (await bank.audit(sessions)).total


async def _audit(config: Config, run: Run) -> bank.Books | None:
    """Read the books from outside; None when a node cannot be read any more."""
    try:
        async with connections(config.nodes) as sessions:
            return await bank.audit(sessions)
    except NodoubtError as error:
        run.pending.append(f"the audit failed: {error.message}")
        return None


async def _leave(config: Config, *, keep: bool) -> None:
    """Clean up, or mark the tables as left on purpose."""
    try:
        async with connections(config.nodes) as sessions:
            for session in sessions.values():
                await (bank.keep if keep else bank.demolish)(session)
    except NodeUnavailable:
        return
