"""The engine, run through everything: small worlds here, the large ones by `make prove`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nodoubt.prove.databases import Fault
from nodoubt.prove.explorer import Scope, State, Step, World, explore
from nodoubt.prove.story import tell

SMALL = (
    Scope(branches=2, settlers=1),
    Scope(branches=2, settlers=1, attached=True),
    Scope(branches=2, settlers=2, faults=frozenset({Fault.LOSS, Fault.CRASH})),
    Scope(branches=3, settlers=1, faults=frozenset({Fault.CRASH, Fault.LATENESS})),
)


@pytest.mark.parametrize("scope", SMALL, ids=range(len(SMALL)))
def test_every_state_keeps_the_invariants_and_can_be_settled(scope: Scope) -> None:
    world = World(scope)
    findings = explore(world)
    assert findings.ok, "\n".join(tell(world, findings))
    assert findings.transitions > findings.states > 10_000


class Remembering(World):
    """A world that remembers its states."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.visited: list[State] = []

    def steps(self, state: State) -> Iterator[Step]:
        self.visited.append(state)
        return super().steps(state)


class Named(Remembering):
    """A world in which left is left and the first settler the first."""

    def canonical(self, state: State) -> State:
        return state


def test_symmetric_states_are_left_out_and_no_others() -> None:
    scope = Scope(branches=3, settlers=1, faults=frozenset({Fault.CRASH}))
    named, canonical = Named(scope), Remembering(scope)
    assert explore(named).ok
    assert explore(canonical).ok
    # Numbers are given in the order of discovery: compare what they stand for.
    assert {_orbit(named, state) for state in named.visited} == {
        _orbit(canonical, state) for state in canonical.visited
    }
    assert len(canonical.visited) < len(named.visited)


def _orbit(world: World, state: State) -> object:
    """A state and its mirror image, spelt out."""
    truth, owner, packet, *settlers = state
    assert packet == 0
    mirrored = world.truths[truth].swapped(), *[_process(world, world.locals.mirror[n]) for n in (owner, *settlers)]
    return frozenset({(world.truths[truth], *[_process(world, n) for n in (owner, *settlers)]), mirrored})


def _process(world: World, number: int) -> object:
    return world.locals[number], number & 1


def test_nobody_settles_where_there_is_no_settler() -> None:
    world = World(Scope(branches=2, settlers=0))
    findings = explore(world)
    assert findings.wrong == "from here nothing can be settled any more"
    assert any("owner is killed" in line for line in tell(world, findings))
