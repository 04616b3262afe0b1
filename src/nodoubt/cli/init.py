"""`nodoubt init`: make our tables on every node, or print how."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from nodoubt.cli.common import Exit, add_command, configuration, exit_code, run_async, tell
from nodoubt.engine.reach import nodes_of
from nodoubt.errors import NodoubtError
from nodoubt.nodes.contract import Node

EXAMPLES = (
    "nodoubt init",
    "nodoubt init --sql",
    "nodoubt init --nodes orders=postgresql://localhost/orders stock=postgresql://localhost/stock --domain shop",
)


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "init",
        summary="create or migrate nodoubt's tables on every node",
        description="Creates nodoubt's tables and the identity row on every node, or migrates them forward. Doing it "
        "again changes nothing. A node that fails stops no other; each is told of.",
        examples=EXAMPLES,
    )
    parser.add_argument("--sql", action="store_true", help="print the statements instead, for each node; touch nothing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """See the command's help."""
    nodes = nodes_of(configuration(arguments))
    if arguments.sql:
        texts = {node.name: node.ddl() for node in nodes}
        lines = [f"-- node {name}\n{text}" for name, text in texts.items()]
        tell(arguments, {"sql": texts}, lines)
        return Exit.FINE
    results = run_async(_install(nodes))
    failed = {name: result for name, result in results.items() if isinstance(result, NodoubtError)}
    tell(arguments, {"nodes": {name: _entry(result) for name, result in results.items()}}, _lines(results))
    # Of several failures the one that the user can mend in the configuration comes first.
    return min((exit_code(error) for error in failed.values()), key=_order, default=Exit.FINE)


def _order(code: Exit) -> int:
    return (Exit.USAGE, Exit.FINDING, Exit.UNREACHABLE).index(code)


async def _install(nodes: Sequence[Node]) -> dict[str, str | NodoubtError]:
    """One after the other: of two nodes that are one database, the first keeps it."""
    results: dict[str, str | NodoubtError] = {}
    for node in nodes:
        try:
            results[node.name] = await node.install()
        except NodoubtError as error:
            results[node.name] = error
        await node.close()
    return results


def _entry(result: str | NodoubtError) -> dict[str, Any]:
    if isinstance(result, NodoubtError):
        return {"done": False, "error": result.message, "hint": result.hint}
    return {"done": True, "text": result}


def _lines(results: dict[str, str | NodoubtError]) -> list[str]:
    lines = []
    for name, result in results.items():
        if isinstance(result, NodoubtError):
            lines.append(f"{name}: FAILED: {result.message}")
            if result.hint:
                lines.append(f"  hint: {result.hint}")
        else:
            lines.append(f"{name}: {result}")
    failed = [name for name, result in results.items() if isinstance(result, NodoubtError)]
    if failed:
        done = [name for name in results if name not in failed]
        lines.append(
            f"done: {', '.join(done) or 'none'}; failed: {', '.join(failed)}; run it again when that is mended"
        )
    return lines
