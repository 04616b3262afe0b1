"""The drawing in the docs is that of the tables."""

from __future__ import annotations

from nodoubt.protocol.states import BranchState, Phase
from tests.protocol.diagram import PAGE, alias, page


def test_the_drawing_is_fresh() -> None:
    assert page() == PAGE.read_text("utf-8"), "docs/protocol.md is stale: run `make docs`"


def test_every_phase_and_state_is_reached() -> None:
    phases, branches = page().split("## The states of a branch")
    assert all(f"--> {alias(phase)}" in phases for phase in Phase)
    assert all(f"--> {alias(state)}" in branches for state in BranchState)


def test_what_the_machine_does_by_itself_is_drawn() -> None:
    assert "preparing --> deciding: all have answered" in page()
    assert "open --> preparing: Prepare\n" in page()
    assert "prepared --> committing: CommitBranch\n" in page()
