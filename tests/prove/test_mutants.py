"""The proof can fail: each mistake in the protocol is found, and told as a story."""

from __future__ import annotations

import pytest

from nodoubt.prove.explorer import World, explore
from nodoubt.prove.story import tell
from tests.prove.mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_mutant_is_caught_with_a_story(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.apply(monkeypatch)
    world = World(mutant.scope)
    findings = explore(world)
    story = tell(world, findings)
    assert mutant.breaks in findings.wrong
    assert story[0].startswith("  1. ")
    assert story[-1] == f"BROKEN: {findings.wrong}"
