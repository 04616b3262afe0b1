"""Whole histories: the same seed is the same history, the library survives them, and mistakes do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nodoubt.errors import ConfigError
from nodoubt.judge.history import NEVER
from nodoubt.nodes.contract import Isolation
from nodoubt.sim import explore, hits, record
from nodoubt.sim.mutants import switched_on
from nodoubt.sim.network import RESET_S_MAX
from nodoubt.sim.plan import KINDS, STROKES, UNLIMITED, draw
from nodoubt.sim.run import LOOK_S, STEPS_MAX, Simulation, run
from nodoubt.sim.watch import verdicts_counted
from nodoubt.sim.workload import Attempt, View

SOURCE = Path(__file__).parents[2] / "src"
#: Seeds that are run twice.
SAME = 1000


def hashing(hash_seed: str, first: int, runs: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "nodoubt", "sim", "--hash", "--first", str(first), "--runs", str(runs)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def printed(*started: subprocess.Popen[str]) -> list[str]:
    """What each printed, once all have ended well."""
    outputs = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(started)
    assert all(outputs)
    return outputs


def test_a_seed_is_one_history_byte_for_byte() -> None:
    """Whatever the order of sets and the place of objects."""
    one, other = printed(hashing("1", 0, SAME), hashing("2", 0, SAME))
    assert one == other


def test_two_seeds_are_two_histories() -> None:
    one, other = printed(hashing("1", 1, 1), hashing("1", 2, 1))
    assert one.split()[-1] != other.split()[-1]


def test_tracing_changes_nothing() -> None:
    for seed in range(10):
        traced, untraced = run(draw(seed), traced=True), run(draw(seed))
        assert (traced.hits, traced.seconds, traced.attempts) == (untraced.hits, untraced.seconds, untraced.attempts)
        assert traced.lines
        assert not untraced.lines


def test_histories_with_all_faults_end_well() -> None:
    tally = explore.batch(0, 300, "")
    assert tally.failures == {}
    assert tally.runs == 300
    assert tally.committed > 300
    reached = {name for group, name in tally.hits if group == "fault"}
    assert set(STROKES) - reached <= {"operator finishes a branch"}


def test_without_healing_faults_go_on_to_the_end() -> None:
    histories = [run(draw(seed)) for seed in range(0, 40 * UNLIMITED, UNLIMITED)]
    assert not any(history.plan.heals or history.violations for history in histories)
    strokes = [(history.hits["fault", kind], most) for history in histories for kind, most in STROKES.items()]
    assert any(count > most for count, most in strokes)


def test_histories_are_judged_by_the_checker_too() -> None:
    """A write that is read and was never made, which the simulation's own judge does not look for."""
    world = Simulation(draw(1).shrunk(faults=()), traced=False)
    with verdicts_counted(world.observer):
        world.play()
    world.bury()
    assert list(record.contradictions(world)) == []
    reader = next(attempt for attempt in world.attempts if attempt.told == "committed")
    reader.ops.append(("r", (next(iter(world.plan.nodes)), "l0"), ("made up",)))
    assert "garbage-read" in "".join(record.contradictions(world))


def quiet(isolation: Isolation) -> Simulation:
    """A world of that level without faults, after its history, of which the checker holds nothing against the library."""
    for plan in map(draw, range(1, 1000)):
        if plan.isolation is isolation and plan.views:
            world = Simulation(plan.shrunk(faults=()), traced=False)
            with verdicts_counted(world.observer):
                world.play()
            world.bury()
            assert list(record.contradictions(world)) == []
            if world.chronicle.views and any(a.told == "committed" and len(a.moved) > 1 for a in world.attempts):
                return world
    raise AssertionError("no seed has what it takes")


@pytest.mark.parametrize("isolation", Isolation)
def test_a_view_of_half_a_transaction_is_convicted(isolation: Isolation) -> None:
    world = quiet(isolation)
    whole = next(a for a in world.attempts if a.told == "committed" and len(a.moved) > 1)
    (_, first, _), *_, (_, last, _) = [op for op in whole.ops if op[0] == "append"]
    rows = {place: world.databases[place[0]].store.tables["list"][place[1]] for place in (first, last)}
    half = rows[last][: rows[last].index(whole.tag)]
    world.chronicle.views.append(View([("r", first, rows[first]), ("r", last, half)], None, whole.began, NEVER))
    assert "the appends and the views: strict-serializable is contradicted" in "".join(record.contradictions(world))


def test_a_caller_who_misses_what_he_was_told_is_a_contradiction() -> None:
    world = quiet(Isolation.ATOMIC)
    told = next(attempt for attempt in world.attempts if attempt.told == "committed")
    place = next(place for function, place, _ in told.ops if function == "append")
    later = Attempt("later", "later", manager=told.manager, began=told.ended + 1, ops=[("r", place, ())])
    assert list(record._missed(world)) == []
    world.attempts.append(later)
    assert f"{told.tag} was told to be committed" in "".join(record._missed(world))
    later.manager = None
    assert list(record._missed(world)) == [], "another manager was told nothing"


def test_a_world_in_which_somebody_settles_is_not_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """He may still write a tombstone for what he saw a while ago (seed 8,010,372 of 2026-11-30)."""
    world = Simulation(draw(1).shrunk(faults=()), traced=False)
    with verdicts_counted(world.observer):
        world.play()
        quiet = [world.is_quiet()]
        monkeypatch.setattr(world.network, "draw", lambda line, packet: "request lost")
        world.network.is_foul = True
        world.processes["p0"].manager.engine.hurry()
        for passes_s in (LOOK_S, RESET_S_MAX):
            world.schedule.run(world.schedule.now + passes_s, STEPS_MAX)
            quiet.append(world.is_quiet())
            world.network.heal()
    world.bury()
    assert quiet == [True, False, True]


def test_a_failure_is_made_small_and_told_how_to_repeat() -> None:
    mutant = "failures-forgotten"
    tally = explore.batch(0, 100, mutant)
    plans = [draw(seed) for seed in sorted(tally.failures)]
    made_small = ((plan, explore.shrink(plan, mutant)) for plan in plans)
    # Not every seed fails by one kind of fault alone.
    plan, small = next((plan, small) for plan, small in made_small if set(small.rates) <= {"block ignores an error"})
    assert small.transactions < plan.transactions
    with switched_on(mutant):
        assert run(small).violations
    words = explore.command(small, mutant)
    assert words.startswith(f"nodoubt sim --seed {plan.seed} --transactions {small.transactions} --faults")


def test_no_mutant_of_that_name() -> None:
    with pytest.raises(ConfigError, match="no mutant"), switched_on("typo"):
        pass


def test_what_was_never_reached_is_named() -> None:
    history = run(draw(1).shrunk(faults=()))
    missing = hits.zeros(history.hits)
    assert {f"fault: {kind}" for kind in KINDS} <= set(missing)
    assert "transition: active + Enlisted" not in missing
    assert any("fault: 0 of" in line for line in hits.table(history.hits))
