"""The page of mutants, made from what the enumeration finds: ``python -m tests.prove.page``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from nodoubt.prove.explorer import Findings, World, explore
from tests.prove.mutants import MUTANTS, Mutant

PAGE = Path(__file__).parents[2] / "docs" / "mutants.md"

_TEXT = """\
# Mutants

Mistakes that others made in such protocols, put into the production code one at a time. The proof must find each: one that
survives would be a hole in it. Made by `make docs` from `tests/prove/mutants.py`; the tests fail when a mutant survives or this
page is stale.

| mistake | what breaks | by | states until then | steps of the shortest story |
|---|---|---|---|---|
"""


def row(mutant: Mutant, findings: Findings) -> str:
    """One line of the table: the exploration is breadth first, so its numbers are the same on every machine."""
    broken = findings.wrong.replace("|", "/")
    return f"| {mutant.name} | {broken} | enumeration | {findings.states:,} | {len(findings.trail) - 1} |\n"


def page(rows: Iterable[str]) -> str:
    """The whole page."""
    return _TEXT + "".join(rows)


def _explored(mutant: Mutant) -> str:
    with pytest.MonkeyPatch.context() as patch:
        mutant.apply(patch)
        return row(mutant, explore(World(mutant.scope)))


if __name__ == "__main__":
    PAGE.write_text(page(_explored(mutant) for mutant in MUTANTS), "utf-8")
