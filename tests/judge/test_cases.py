"""The minimal histories, and those of simulated databases that the Elle checker judged."""

from __future__ import annotations

import pytest

from nodoubt.judge import Level, judge
from nodoubt.judge.levels import FORBIDDEN_BY
from tests.judge.cases import CASES, Case
from tests.judge.recordings import RECORDINGS, Recording


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_a_minimal_history_shows_its_anomaly_and_no_other(case: Case) -> None:
    verdict = judge(case.history)
    assert {anomaly.name for anomaly in verdict.anomalies} == case.anomalies
    assert {level for level in Level if verdict.holds(level)} == case.holds


def test_there_is_a_minimal_history_for_every_anomaly() -> None:
    assert set().union(*(case.anomalies for case in CASES)) == set(FORBIDDEN_BY)


@pytest.mark.parametrize("recording", RECORDINGS, ids=[recording.name for recording in RECORDINGS])
def test_every_verdict_of_elle_is_ours(recording: Recording) -> None:
    assert recording.verdicts
    assert recording.disagreements(judge(recording.ops)) == []
