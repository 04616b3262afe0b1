"""The proof can fail: each mistake in the protocol is found, and told as a story."""

from __future__ import annotations

import pytest

from nodoubt.prove.explorer import World, explore
from nodoubt.prove.story import tell
from tests.prove.mutants import MUTANTS, Mutant
from tests.prove.page import PAGE, page, row


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_mutant_is_caught_with_a_story(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.apply(monkeypatch)
    world = World(mutant.scope)
    findings = explore(world)
    story = tell(world, findings)
    assert mutant.breaks in findings.wrong
    assert story[0].startswith("  1. ")
    assert story[-1] == f"BROKEN: {findings.wrong}"
    assert row(mutant, findings) in PAGE.read_text("utf-8"), "docs/mutants.md is stale: run `make docs`"


def test_the_page_has_no_other_mutants() -> None:
    text = PAGE.read_text("utf-8")
    assert text.startswith(page([]))
    assert len(text.removeprefix(page([])).splitlines()) == len(MUTANTS)
