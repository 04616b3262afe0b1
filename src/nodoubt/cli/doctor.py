"""`nodoubt doctor`: look at every node and say what is wrong, and how to mend it."""

from __future__ import annotations

import argparse
import asyncio
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nodoubt.cli.common import Exit, add_command, configuration, count, run_async, tell
from nodoubt.engine.config import Config
from nodoubt.engine.reach import nodes_of
from nodoubt.nodes.contract import Finding, Node

EXAMPLES = (
    "nodoubt doctor",
    "nodoubt doctor --json",
    "nodoubt doctor --nodes orders=postgresql://localhost/orders stock=postgresql://localhost/stock",
)

_MARKS = {"ok": "ok     ", "warning": "WARNING", "error": "ERROR  "}


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = add_command(
        subparsers,
        "doctor",
        summary="check every node: settings, privileges, identity, clock",
        description="Looks at all nodes at once and changes nothing. Each finding comes with its fix. An error means "
        "that transactions, or their recovery, will fail there; the exit code is then 1.",
        examples=EXAMPLES,
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """See the command's help."""
    config = configuration(arguments)
    found = run_async(_inspect(nodes_of(config)))
    between = list(_between(found))
    everything = [*itertools.chain.from_iterable(found.values()), *between]
    errors = sum(finding.level == "error" for finding in everything)
    warnings = sum(finding.level == "warning" for finding in everything)
    result = {
        "domain": config.domain,
        "nodes": {name: [_entry(finding) for finding in findings] for name, findings in found.items()},
        "between": [_entry(finding) for finding in between],
        "errors": errors,
        "warnings": warnings,
    }
    tell(arguments, result, _lines(config, found, between, f"{count(errors, 'error')}, {count(warnings, 'warning')}"))
    return Exit.FINDING if errors else Exit.FINE


async def _inspect(nodes: Sequence[Node]) -> dict[str, Sequence[Finding]]:
    found = await asyncio.gather(*(node.inspect() for node in nodes))
    await asyncio.gather(*(node.close() for node in nodes))
    return {node.name: findings for node, findings in zip(nodes, found, strict=True)}


def _between(found: Mapping[str, Sequence[Finding]]) -> Iterator[Finding]:
    """Findings that no node can make alone: two nodes that are one database have one identity."""
    names: dict[object, list[str]] = {}
    for name, findings in found.items():
        for finding in findings:
            if finding.check == "identity" and finding.fact is not None:
                names.setdefault(finding.fact, []).append(name)
    for same in names.values():
        if len(same) > 1:
            yield Finding(
                check="identity",
                level="error",
                text=f"nodes {' and '.join(map(repr, same))} are one database",
                fix="give each node a database of its own; one that was copied from another needs its row in"
                " nodoubt.node deleted, then `nodoubt init`",
            )


def _entry(finding: Finding) -> dict[str, str]:
    return {"check": finding.check, "level": finding.level, "text": finding.text, "fix": finding.fix}


def _lines(
    config: Config, found: Mapping[str, Sequence[Finding]], between: Sequence[Finding], summary: str
) -> Iterator[str]:
    groups = {f"node {name}": findings for name, findings in found.items()}
    if between:
        groups["between nodes"] = between
    for title, findings in groups.items():
        yield title
        for finding in findings:
            yield f"  {_MARKS[finding.level]}  {finding.check}: {finding.text}"
            if finding.fix:
                yield f"{' ' * 11}fix: {finding.fix}"
    yield f"{count(len(found), 'node')} of domain {config.domain}: {summary}"
