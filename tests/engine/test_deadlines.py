"""One alarm for all deadlines: nobody is called too early, nobody is forgotten, and hardly an alarm is ever set."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from nodoubt.engine.deadlines import EARLY_S, Deadlines
from nodoubt.engine.worlds import AsyncWorld


class Bell:
    """An alarm of the clock below."""

    def __init__(self, at_s: float, call: Callable[[], None]) -> None:
        self.at_s = at_s
        self.call = call

    def cancel(self) -> None:
        self.at_s = math.inf


class Clock(AsyncWorld):
    """A world in which time passes when the test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.bells: list[Bell] = []

    def now(self) -> float:
        return self.now_s

    def later(self, seconds: float, call: Callable[[], None]) -> Bell:  # type: ignore[override]
        self.bells.append(Bell(self.now_s + seconds, call))
        return self.bells[-1]

    def pass_until(self, now_s: float, *, early_s: float = 0.0) -> None:
        while self.bells and (bell := min(self.bells, key=lambda bell: bell.at_s)).at_s <= now_s:
            self.now_s, at_s = bell.at_s - early_s, bell.at_s
            bell.cancel()
            bell.call()
            assert min(bell.at_s for bell in self.bells) > at_s - early_s, "the alarm rings without end"
        self.now_s = now_s


class Live:
    """A live transaction, that notes when it was called."""

    def __init__(self, stage: Stage, deadline_s: float, again_s: float = math.inf) -> None:
        self.deadline_s = deadline_s
        self.called_s: list[float] = []
        self._clock = stage.clock
        self._again_s = again_s
        stage.live[str(len(stage.live))] = self
        stage.deadlines.keep(deadline_s)

    def expire(self) -> None:
        self.called_s.append(self._clock.now_s)
        self.deadline_s, self._again_s = self._again_s, math.inf


class Stage:
    def __init__(self) -> None:
        self.clock = Clock()
        self.live: dict[str, Live] = {}
        self.deadlines = Deadlines(self.clock, self.live)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_each_is_called_at_its_deadline_and_once(stage: Stage) -> None:
    late, early = Live(stage, 60.0), Live(stage, 2.0)
    stage.clock.pass_until(1.9)
    assert early.called_s == []
    stage.clock.pass_until(100.0)
    assert (early.called_s, late.called_s) == ([2.0], [60.0])


def test_a_deadline_may_be_set_anew_when_it_is_over(stage: Stage) -> None:
    live = Live(stage, 2.0, again_s=12.0)
    stage.clock.pass_until(100.0)
    assert live.called_s == [2.0, 12.0]


def test_who_ended_is_not_called_and_the_others_are_kept(stage: Stage) -> None:
    ended = Live(stage, 2.0)
    stage.live.clear()
    live = Live(stage, 3.0)
    stage.clock.pass_until(100.0)
    assert (ended.called_s, live.called_s) == ([], [3.0])


def test_an_alarm_that_rings_a_little_early_is_on_time(stage: Stage) -> None:
    live = Live(stage, 2.0)
    stage.clock.pass_until(100.0, early_s=EARLY_S / 2)
    assert live.called_s == [2.0 - EARLY_S / 2]


def test_a_bug_in_one_keeps_no_other_from_its_deadline(stage: Stage) -> None:
    faulty, live = Live(stage, 2.0), Live(stage, 2.0)

    def fail() -> None:
        faulty.deadline_s = math.inf
        raise ZeroDivisionError

    faulty.expire = fail  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        stage.clock.pass_until(100.0)
    stage.clock.pass_until(100.0)
    assert live.called_s == [2.0]


def test_many_transactions_one_after_another_set_few_alarms(stage: Stage) -> None:
    for number in range(1_000):
        stage.clock.pass_until(number / 10)
        stage.live.clear()
        Live(stage, stage.clock.now_s + 10.0)
    assert len(stage.clock.bells) <= 11


@pytest.mark.parametrize("is_live", [True, False])
def test_once_closed_the_alarm_rings_for_live_transactions_alone(stage: Stage, is_live: bool) -> None:
    Live(stage, 2.0)
    if not is_live:
        stage.live.clear()
    stage.deadlines.close()
    assert [bell.at_s for bell in stage.clock.bells] == [2.0 if is_live else math.inf]
