"""The judge can fail: each of its mutants is convicted by the minimal histories or by the verdicts of Elle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from nodoubt.errors import InvariantBroken
from nodoubt.judge import Level, cycles, history, judge, lists, verdict
from nodoubt.judge.evidence import Evidence
from nodoubt.judge.graph import KINDS, Graph, Survey, survey
from nodoubt.judge.history import NEVER, Ending, History, pair
from nodoubt.judge.levels import CYCLES, FORBIDDEN_BY
from nodoubt.judge.registers import Registers
from nodoubt.judge.shapes import GROUNDS, Ground
from tests.judge.cases import CASES, Case
from tests.judge.recordings import RECORDINGS

Patch = tuple[object, str, object]
"""An owner, its attribute, and what the mutant has in its place."""


class _Deaf(list[int]):
    """Stays empty."""

    def append(self, _: int) -> None:
        pass

    def __iadd__(self, _: Iterable[int]) -> _Deaf:  # type: ignore[override, misc]
        return self


def _without(kind: int) -> Patch:
    """Knows no edges of a kind."""
    init = Graph.__init__

    def deaf(graph: Graph, begin: Sequence[int], end: Sequence[int]) -> None:
        init(graph, begin, end)
        graph.edges[kind][:] = [_Deaf() for _ in begin]

    return Graph, "__init__", deaf


def _blind_to(name: str) -> Patch:
    """Does not see an anomaly that is no cycle."""
    find = Evidence.find

    def see(evidence: Evidence, found: str, transactions: Sequence[int], words: str, *values: Any) -> None:
        if found != name:
            find(evidence, found, transactions, words, *values)

    return Evidence, "find", see


def _without_small_knots(successors: Sequence[Sequence[int]], ends: Sequence[int]) -> Survey:
    found = survey(successors, ends)
    return Survey([knot for knot in found.knots if len(knot) > 2], found.earliest)


def _unknown_over_when_told(ops: Iterable[Mapping[str, Any]]) -> History:
    told = pair(ops)
    told.end = [begin + 1 if end == NEVER else end for begin, end in zip(told.begin, told.end, strict=True)]
    return told


def _through_a_point(graph: Graph, readers: Sequence[int], writers: Sequence[int]) -> None:
    """Forgets that a reader may be one of the writers."""
    if readers and writers:
        point = graph._point(writers)
        for reader in readers:
            graph.edges[2][reader].append(point)


def _unsplit() -> dict[Level, Ground]:
    return {level: Ground(ground.kinds, in_real_time=ground.in_real_time) for level, ground in GROUNDS.items()}


def _nothing(*_: object) -> list[int]:
    return []


MUTANTS: dict[str, Patch] = {
    **{f"no {name} edges": _without(kind) for kind, name in enumerate(KINDS[:4])},
    **{f"blind to {name}": _blind_to(name) for name in FORBIDDEN_BY if not name.startswith(CYCLES)},
    "no real time": (cycles, "precedes", lambda end, begin: False),
    "real time for what overlaps": (cycles, "precedes", lambda end, begin: end - 2 < begin),
    "real time turned round": (cycles, "precedes", lambda end, begin: begin < end < NEVER),
    "one version too late": (lists, "lacking", lambda since, place: range(since + 1, place + 2)),
    "one version too early": (lists, "lacking", lambda since, place: range(since - 1, place)),
    "only the last version": (lists, "lacking", lambda since, place: range(place, place + 1)),
    "snapshot isolation is serializability": (cycles, "GROUNDS", _unsplit()),
    "unknown is committed": (history, "_ENDINGS", {"ok": Ending.OK, "fail": Ending.FAIL, "info": Ending.OK}),
    "unknown is aborted": (history, "_ENDINGS", {"ok": Ending.OK, "fail": Ending.FAIL, "info": Ending.FAIL}),
    "aborted is unknown": (history, "_ENDINGS", {"ok": Ending.OK, "fail": Ending.UNKNOWN, "info": Ending.UNKNOWN}),
    "unknown is over when it is told": (verdict, "pair", _unknown_over_when_told),
    "what was seen of the unknown is not committed": (Evidence, "sees", _nothing),
    "writes that nobody saw are no writes": (lists.ListAppend, "_unseen", _nothing),
    "contradictions order versions": (lists.Versions, "disagree", _nothing),
    "a reader is none of the writers": (Graph, "overwrite", _through_a_point),
    "circles of two are none": (cycles, "survey", _without_small_knots),
    "registers have no order": (Registers, "_overwriters", _nothing),
}


def is_right(case: Case) -> bool:
    """Whether a minimal history is judged as it must be. A cycle that nothing explains is a wrong one."""
    try:
        found = judge(case.history)
    except InvariantBroken:
        return False
    names = {anomaly.name for anomaly in found.anomalies}
    return names == case.anomalies and {level for level in Level if found.holds(level)} == case.holds


def wrong_about() -> list[str]:
    """The minimal histories that are judged wrongly, or else the recorded ones."""
    wrong = [case.title for case in CASES if not is_right(case)]
    return wrong or [recording.name for recording in RECORDINGS if recording.disagreements(judge(recording.ops))]


def test_the_judge_is_wrong_about_none() -> None:
    assert wrong_about() == []


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_wrong_about_some(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*MUTANTS[name])
    assert wrong_about()
