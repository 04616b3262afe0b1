"""Verdicts are computed from what was seen: each of them can come out, and a script cannot call harmless what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.isolation.notation import Commits, GoesOn, RollsBack, Script, Seen, Statement, parse
from tests.isolation.scripts import SCRIPTS
from tests.isolation.verdict import Run, Verdict, verdict

SKEW = SCRIPTS["g-single-lazy"]
OLD, NEW = {1: 10, 2: 20}, {"x": {1: 12, 2: 20}, "y": {1: 18, 2: 20}}
NOBODY: frozenset[str] = frozenset()
#: The reader is first: it read both rows before they were written.
FIRST = Run(
    seen=Seen(reads={"a": 10, "b": 10}, committed=frozenset({"t1", "t2"}), state={**NEW, "z": OLD, "w": OLD}),
    waited=NOBODY,
    failed=NOBODY,
    given_up=NOBODY,
    before=frozenset(),
)


def told(**reads: int) -> Run:
    return replace(FIRST, seen=replace(FIRST.seen, reads=reads))


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (FIRST, Verdict.ABSENT),
        (told(a=12, b=18), Verdict.ABSENT),
        (told(a=10, b=18), Verdict.OCCURS),
        (told(a=12, b=10), Verdict.OTHER),
        (told(a=11, b=10), Verdict.OTHER),
        (replace(told(a=10, b=18), waited=frozenset({"t2"}), failed=frozenset({"t2"})), Verdict.OCCURS),
        (replace(FIRST, waited=frozenset({"t2"})), Verdict.WAITS),
        (replace(FIRST, seen=replace(FIRST.seen, state=dict.fromkeys("xyzw", OLD))), Verdict.OTHER),
        (replace(FIRST, before=frozenset({("t2", "t1")})), Verdict.OTHER),
        (replace(FIRST, before=frozenset({("t1", "t2")})), Verdict.ABSENT),
        (
            replace(
                FIRST,
                seen=replace(FIRST.seen, committed=frozenset({"t1"}), state=dict.fromkeys("xyzw", OLD)),
                waited=frozenset({"t2"}),
                failed=frozenset({"t2"}),
            ),
            Verdict.FAILS,
        ),
        (
            replace(
                FIRST,
                seen=Seen(reads={"a": 10}, committed=frozenset({"t2"}), state=FIRST.seen.state),
                failed=frozenset({"t1"}),
                given_up=frozenset({"t1"}),
            ),
            Verdict.DEADLOCK,
        ),
    ],
)
def test_a_run_gets_the_verdict_it_deserves(run: Run, expected: Verdict) -> None:
    assert verdict(SKEW, run) is expected


def test_a_condition_that_calls_a_serial_run_an_anomaly_is_found() -> None:
    wrong = replace(SKEW, occurred=lambda seen: bool(seen.a == seen.b == 10))
    with pytest.raises(AssertionError, match="a serial order explains"):
        verdict(wrong, FIRST)


def test_lines_are_read() -> None:
    assert parse("a = t1 from x: SELECT 1") == Statement(who="t1", node="x", sql="SELECT 1", read_only=True, label="a")
    assert parse("t2 on w: DELETE FROM item") == Statement(who="t2", node="w", sql="DELETE FROM item")
    assert parse("t1 commits, y held back") == Commits(who="t1", held="y")
    assert parse("t1 goes on") == GoesOn(who="t1")
    assert parse("t3 rolls back") == RollsBack(who="t3")
    with pytest.raises(ValueError, match="not a step"):
        parse("t1 sleeps")


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_every_transaction_of_a_script_comes_to_its_end(script: Script) -> None:
    for name in script.names:
        steps = [step for step in script.steps if step.who == name]
        last = steps.pop() if isinstance(steps[-1], GoesOn) else None
        assert isinstance(steps[-1], Commits | RollsBack)
        assert (last is not None) == bool(isinstance(steps[-1], Commits) and steps[-1].held)
