"""The machine, enumerated: every order of facts, with every answer, lost reply, abort and settler at every point.

The world around the machine is a model of what the databases hold in truth. The machine sees only facts; the invariants speak
about the truth.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from nodoubt.errors import InvariantBroken
from nodoubt.protocol import messages as m
from nodoubt.protocol.states import ASKED, BRANCHES, ENDED, PHASES, BranchState, Phase
from nodoubt.protocol.transaction import Transaction


@dataclass(frozen=True)
class World:
    """What is true: the decision at home, each branch, and the orders that were given and not answered."""

    machine: Transaction
    decision: str = "none"
    branches: tuple[str, ...] = ()
    waiting: tuple[m.Order, ...] = ()
    asked_to_abort: bool = False
    trail: tuple[str, ...] = field(default=(), compare=False)

    def key(self) -> object:
        machine = self.machine
        inside = (machine.phase, tuple(machine.branches), machine.fenced, machine.probed)
        return inside, self.decision, self.branches, frozenset(map(repr, self.waiting)), self.asked_to_abort


def tell(world: World, fact: m.Fact, **truth: object) -> World:
    machine = copy.copy(world.machine)
    machine.branches = list(machine.branches)
    orders = machine.take(fact)
    changed: World = replace(world, machine=machine, **truth)  # type: ignore[arg-type]
    for order in orders:
        check_order(changed, order)
    kept = tuple(order for order in orders if not isinstance(order, m.Forget | m.HandOver))
    return replace(changed, waiting=changed.waiting + kept, trail=(*world.trail, repr(fact)))


def check_order(world: World, order: m.Order) -> None:
    """The machine's own invariants: what it may order, by what is true."""
    match order:
        case m.CommitBranch():
            assert world.decision == "committed", world.trail
        case m.RollbackBranch(branch=branch, prepared=True):
            assert world.decision == "aborted", world.trail
        case m.RollbackBranch(branch=branch):
            assert world.branches[branch] == "open", world.trail
        case m.Decide(branch=home):
            # A settler may have been faster, but only behind a tombstone, which the decision then meets.
            others = {b for n, b in enumerate(world.branches) if n != home and not world.machine.read_only[n]}
            assert others <= {"prepared"} or world.decision == "aborted", world.trail
        case m.Forget():
            assert "prepared" not in world.branches, world.trail


def set_branch(world: World, branch: int, truth: str) -> tuple[str, ...]:
    return (*world.branches[:branch], truth, *world.branches[branch + 1 :])


def answers(world: World, order: m.Order) -> Iterator[World]:
    """Every way in which an order can end."""
    rest = replace(world, waiting=tuple(o for o in world.waiting if o is not order))
    match order:
        case m.Prepare(branch=n):
            yield tell(rest, m.Prepared(branch=n), branches=set_branch(rest, n, "prepared"))
            yield tell(rest, m.Refused(branch=n, reason="no"), branches=set_branch(rest, n, "rolled back"))
            for truth in ("prepared", "rolled back"):
                yield tell(rest, m.PrepareLost(branch=n, reason="lost"), branches=set_branch(rest, n, truth))
        case m.Release(branch=n):
            yield tell(rest, m.Released(branch=n), branches=set_branch(rest, n, "released"))
            yield tell(rest, m.Refused(branch=n, reason="no"), branches=set_branch(rest, n, "rolled back"))
        case m.Decide(branch=n):
            gone, done = set_branch(rest, n, "rolled back"), set_branch(rest, n, "committed")
            yield tell(rest, m.DecisionLost(reason="lost"), branches=gone)
            yield tell(rest, m.DecisionFailed(reason="no"), branches=gone)
            if rest.decision == "aborted":
                yield tell(rest, m.DecisionConflict(), branches=gone)
            else:
                yield tell(rest, m.DecisionDurable(), branches=done, decision="committed")
                yield tell(rest, m.DecisionLost(reason="lost"), branches=done, decision="committed")
        case m.Probe():
            yield tell(rest, m.HomeSilent(reason="silent"))
            if rest.decision == "committed":
                yield tell(rest, m.FoundCommitted())
            else:
                yield tell(rest, m.FoundAborted(), decision="aborted")
        case m.CommitBranch(branch=n):
            assert rest.branches[n] in ("prepared", "committed"), rest.trail
            yield tell(rest, m.BranchCommitted(branch=n), branches=set_branch(rest, n, "committed"))
            yield tell(rest, m.BranchOwed(branch=n, reason="lost"))
            yield tell(rest, m.BranchOwed(branch=n, reason="lost"), branches=set_branch(rest, n, "committed"))
        case m.RollbackBranch(branch=n):
            yield tell(rest, m.BranchRolledBack(branch=n), branches=set_branch(rest, n, "rolled back"))
            if order.prepared:
                yield tell(rest, m.BranchOwed(branch=n, reason="lost"))


def settled(world: World) -> World:
    """What a settler makes of the truth: it probes, then finishes what is prepared."""
    decision = "aborted" if world.decision == "none" else world.decision
    end = "committed" if decision == "committed" else "rolled back"
    return replace(world, decision=decision, branches=tuple(end if b == "prepared" else b for b in world.branches))


def following(world: World) -> Iterator[World]:
    for order in world.waiting:
        yield from answers(world, order)
    if not world.asked_to_abort:
        yield tell(world, m.AbortRequested(reason="time is over"), asked_to_abort=True)
    if "prepared" in world.branches:
        yield settled(world)


def check_state(world: World) -> None:
    machine, outcome = world.machine, world.machine.outcome
    assert machine.asked == sum(state in ASKED for state in machine.branches), world.trail
    ends = {b for n, b in enumerate(world.branches) if not machine.read_only[n]} & {"committed", "rolled back"}
    assert "committed" not in ends or world.decision == "committed", world.trail
    if outcome.state == "committed":
        assert world.decision == "committed" or (not machine.participants and machine.home is None), world.trail
        assert "rolled back" not in ends, world.trail
    if outcome.state == "aborted":
        assert world.decision != "committed", world.trail
        assert machine.home is None or world.branches[machine.home] in ("open", "rolled back"), world.trail
    if machine.phase in ENDED:
        assert world.waiting == (), world.trail
        left = [n for n, b in enumerate(world.branches) if b == "prepared"]
        assert {machine.nodes[n] for n in left} <= set(outcome.pending), world.trail
        final = settled(world)
        writers = {b for n, b in enumerate(final.branches) if not machine.read_only[n]}
        assert len(writers) <= 1, (world.trail, final.branches)


def explore(start: World) -> list[World]:
    seen = {start.key(): start}
    todo = [start]
    while todo:
        world = todo.pop()
        check_state(world)
        assert world.waiting or world.machine.phase in ENDED, ("stuck", world.trail)
        for after in following(world):
            if after.key() not in seen:
                seen[after.key()] = after
                todo.append(after)
    return list(seen.values())


def enlisted(kinds: str) -> World:
    """``h`` home, ``w`` another writer, ``r`` read-only."""
    world = World(machine=Transaction("gid"))
    for number, kind in enumerate(kinds):
        fact = m.Enlisted(branch=number, node=f"n{number}", read_only=kind == "r", home=kind == "h")
        world = tell(world, fact, branches=(*world.branches, "open"))
    return world


SHAPES = ["", "r", "rr", "h", "hr", "hw", "wh", "hww", "hwr", "whw", "hwww"]


@pytest.mark.parametrize("kinds", SHAPES)
def test_every_order_of_facts_keeps_the_invariants(kinds: str) -> None:
    begun = enlisted(kinds)
    worlds = explore(tell(begun, m.CommitRequested()))
    worlds += explore(tell(begun, m.AbortRequested(reason="no"), asked_to_abort=True))
    told = {world.machine.outcome.state for world in worlds if world.machine.phase in ENDED}
    wanted = {"committed", "aborted"} | ({"unknown"} if "h" in kinds else set())
    assert told == wanted


def test_recovered_work_goes_through_the_same_machine() -> None:
    for decision in ("none", "committed", "aborted"):
        machine, orders = Transaction.recovered("gid", {1: "b", 3: "d"})
        start = World(
            machine=machine,
            decision=decision,
            branches=("released", "prepared", "released", "prepared"),
            waiting=tuple(orders),
        )
        ends = {tuple(settled(w).branches) for w in explore(start) if w.machine.phase in ENDED}
        end = "committed" if decision == "committed" else "rolled back"
        assert ends == {("released", end, "released", end)}


def test_enumeration_reaches_every_legal_transition() -> None:
    """A transition that no enumeration reaches would be untested."""
    reached: set[tuple[Phase, str]] = set()
    real = Transaction.take

    def spy(self: Transaction, fact: m.Fact) -> list[m.Order]:
        reached.add((self.phase, type(fact).__name__))
        return real(self, fact)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transaction, "take", spy)
        for kinds in ("rh", "hww", "hwr"):
            begun = enlisted(kinds)
            explore(tell(begun, m.CommitRequested()))
            explore(tell(begun, m.AbortRequested(reason="no"), asked_to_abort=False))
        for found in (m.FoundCommitted(), m.FoundAborted()):
            stray(found)
    assert {(phase, fact.__name__) for phase, fact in PHASES} - reached == set()


def stray(found: m.FoundCommitted | m.FoundAborted) -> Transaction:
    machine, _ = Transaction.recovered("gid", {0: "a", 1: "b"})
    machine.take(found)
    machine.take(m.BranchStrayed(branch=0))
    done = m.BranchCommitted(branch=1) if isinstance(found, m.FoundCommitted) else m.BranchRolledBack(branch=1)
    assert m.HandOver() in machine.take(done)
    return machine


@pytest.mark.parametrize("found", [m.FoundCommitted(), m.FoundAborted()])
def test_a_stray_is_named_and_never_forgotten(found: m.FoundCommitted | m.FoundAborted) -> None:
    outcome = stray(found).outcome
    assert outcome.strays == ("a",)
    assert outcome.pending == ()


def test_an_illegal_fact_breaks_an_invariant_and_changes_nothing() -> None:
    machine = enlisted("hw").machine
    before = (machine.phase, list(machine.branches))
    for fact in (m.DecisionDurable(), m.Prepared(branch=1), m.BranchCommitted(branch=1), m.FoundCommitted()):
        with pytest.raises(InvariantBroken):
            machine.take(fact)
        assert (machine.phase, machine.branches) == before


def test_every_branch_transition_is_in_a_phase_that_allows_it() -> None:
    assert {fact for _, fact in BRANCHES} <= {fact for _, fact in PHASES}
    assert {state for state, _ in BRANCHES} | set(BRANCHES.values()) | {BranchState.OPEN} == set(BranchState)


def test_a_decision_needs_all_votes() -> None:
    """The worked example of the design: two others, one decision, after both."""
    machine = enlisted("hww").machine
    assert machine.take(m.CommitRequested()) == [m.Prepare(branch=1), m.Prepare(branch=2)]
    assert machine.take(m.Prepared(branch=2)) == []
    assert machine.take(m.Prepared(branch=1)) == [m.Decide(branch=0)]
    assert machine.take(m.DecisionDurable()) == [m.CommitBranch(branch=1), m.CommitBranch(branch=2)]
    assert machine.take(m.BranchCommitted(branch=1)) == []
    assert machine.take(m.BranchCommitted(branch=2)) == [m.Forget()]
    assert machine.participants == {1: "n1", 2: "n2"}
