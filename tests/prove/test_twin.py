"""The twin in TLA+ and the engine, run through everything, are the same protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodoubt.prove.databases import Fault
from nodoubt.prove.explorer import Scope, State, Step, World, explore
from tests.prove.twin import Checked, Seen, projected, tlc

#: Without copies, three branches are few enough for a test.
PRUNED = frozenset({Fault.LOSS, Fault.LATENESS, Fault.CRASH, Fault.REFUSAL})


class Watched(World):
    """A world that remembers what the twin would see of it: states by number, and steps between them."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.seen: dict[Seen, int] = {}
        self.steps_seen: set[tuple[int, int]] = set()
        self._known: dict[State, int] = {}

    def steps(self, state: State) -> Iterator[Step]:
        here = self._see(state)
        for step in super().steps(state):
            self.steps_seen.add((here, self._see(step.state)))
            yield step

    def made(self) -> set[tuple[Seen, Seen]]:
        """The steps, as the twin would see them."""
        seen = list(self.seen)
        return {(seen[before], seen[after]) for before, after in self.steps_seen}

    def _see(self, state: State) -> int:
        key = state[:2]
        if key not in self._known:
            self._known[key], *_ = [self.seen.setdefault(seen, len(self.seen)) for seen in projected(self, state)]
        return self._known[key]


def stretched(checked: Checked) -> set[tuple[Seen, Seen]]:
    """What the engine may do in one step: nothing that the twin sees, or up to two of its steps (to do, and to tell)."""
    following: dict[Seen, set[Seen]] = {state: {state} for state in checked.states}
    for before, after in checked.steps:
        following[before].add(after)
    return {(before, last) for before, nexts in following.items() for after in nexts for last in following[after]}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("config", "scope"),
    [
        ("TwoBranches.cfg", Scope(branches=2, settlers=1)),
        ("ThreeBranches.cfg", Scope(branches=3, settlers=1, faults=PRUNED)),
    ],
)
def test_engine_and_twin_reach_the_same_states_by_the_same_steps(config: str, scope: Scope, tmp_path: Path) -> None:
    checked = tlc(tmp_path, "Nodoubt.tla", config)
    assert "No error has been found" in checked.text, checked.text
    world = Watched(scope)
    assert explore(world).ok
    assert len(world.seen) == checked.distinct
    assert world.seen.keys() == checked.states
    assert world.made() <= stretched(checked)
