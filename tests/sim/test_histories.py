"""Whole histories: the same seed is the same history, the library survives them, and mistakes do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nodoubt.errors import ConfigError
from nodoubt.sim import explore, hits
from nodoubt.sim.mutants import switched_on
from nodoubt.sim.plan import KINDS, STROKES, draw
from nodoubt.sim.run import run

SOURCE = Path(__file__).parents[2] / "src"
#: Seeds that are run twice.
SAME = 1000
#: Seeds that found a bug of the library once.
FOUND = (37, 847)


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


@pytest.mark.parametrize("seed", FOUND)
def test_seeds_that_found_something(seed: int) -> None:
    assert run(draw(seed)).violations == ()


def test_a_failure_is_made_small_and_told_how_to_repeat() -> None:
    mutant = "failures-forgotten"
    tally = explore.batch(0, 20, mutant)
    plan = draw(min(tally.failures))
    small = explore.shrink(plan, mutant)
    assert set(small.rates) <= {"block ignores an error"}
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
