"""The proof can fail: each mistake in the protocol is found, and told as a story or a violation."""

from __future__ import annotations

import pytest

from nodoubt.prove.explorer import World, explore
from nodoubt.prove.story import tell
from nodoubt.sim.mutants import MUTANTS as SIMULATED
from tests.prove.mutants import MUTANTS, Mutant
from tests.prove.page import PAGE, Caught, page, row, seed_of, simulated_row, violated

STALE = "docs/mutants.md is stale: run `make docs`"


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_mutant_is_caught_with_a_story(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.apply(monkeypatch)
    world = World(mutant.scope)
    findings = explore(world)
    story = tell(world, findings)
    assert mutant.breaks in findings.wrong
    assert story[0].startswith("  1. ")
    assert story[-1] == f"BROKEN: {findings.wrong}"
    assert row(mutant, findings) in PAGE.read_text("utf-8"), STALE


@pytest.mark.parametrize("name", SIMULATED)
def test_a_mutant_is_caught_by_the_seed_on_the_page(name: str) -> None:
    """That no earlier seed catches it takes a minute for some: ``make prove-deep`` goes through all of them."""
    seed = seed_of(name)
    violations = violated(name, seed)
    assert violations, f"{name} survives seed {seed}: {STALE}"
    assert simulated_row(name, Caught(seed=seed, violation=violations[0])) in PAGE.read_text("utf-8"), STALE


def test_the_page_has_no_other_mutants() -> None:
    text = PAGE.read_text("utf-8")
    assert text.startswith(page([]))
    assert len(text.removeprefix(page([])).splitlines()) == len(MUTANTS) + len(SIMULATED)
    assert len(MUTANTS) + len(SIMULATED) >= 25
