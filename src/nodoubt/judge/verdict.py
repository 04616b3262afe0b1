"""From evidence to a verdict that people and programs can read.

Lives here: ``judge``, what it returns, and how a cycle is told and drawn.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nodoubt.judge.cycles import cycles
from nodoubt.judge.evidence import Evidence
from nodoubt.judge.graph import KINDS, PROCESS, REALTIME
from nodoubt.judge.history import Ending, History, Model, pair
from nodoubt.judge.levels import FORBIDDEN_BY, Level
from nodoubt.judge.lists import ListAppend
from nodoubt.judge.registers import Registers
from nodoubt.judge.shapes import Cycle
from nodoubt.judge.show import show, show_transaction

_EVIDENCE: Mapping[Model, type[Evidence]] = {"list-append": ListAppend, "rw-register": Registers}


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """Something that some levels forbid, with one example.

    ``transactions`` tells each of the example, as ``T5 (process 1): r x [1 2], append y 3``: the sixth that was invoked.
    ``words`` has a sentence for each step; ``drawing`` is text of several lines, empty for what is no cycle.
    """

    name: str
    forbidden_by: tuple[Level, ...]
    transactions: tuple[str, ...]
    words: tuple[str, ...]
    drawing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a history proves.

    A level holds when nothing in the history speaks against it. ``ok``, ``failed`` and ``unknown`` count transactions by what
    their clients know; ``anomalies`` has one of each kind, the gravest first.
    """

    model: Model
    ok: int
    failed: int
    unknown: int
    anomalies: tuple[Anomaly, ...] = ()

    def against(self, level: Level) -> tuple[Anomaly, ...]:
        """The anomalies that a level forbids."""
        return tuple(anomaly for anomaly in self.anomalies if level in anomaly.forbidden_by)

    def holds(self, level: Level = Level.STRICT_SERIALIZABLE) -> bool:
        """Whether nothing speaks against a level."""
        return not self.against(level)

    def as_json(self) -> dict[str, Any]:
        """The verdict for programs."""
        return {
            "model": self.model,
            "transactions": {"ok": self.ok, "fail": self.failed, "unknown": self.unknown},
            "levels": {level.value: self.holds(level) for level in Level},
            "anomalies": [
                {
                    "name": anomaly.name,
                    "forbidden_by": [level.value for level in anomaly.forbidden_by],
                    "transactions": list(anomaly.transactions),
                    "words": list(anomaly.words),
                    "drawing": anomaly.drawing,
                }
                for anomaly in self.anomalies
            ],
        }


@contextmanager
def _uncollected() -> Iterator[None]:
    """Millions of small things are made and nearly all are kept: looking for cycles among them takes up to half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_uncollected()
def judge(ops: Iterable[Mapping[str, Any]]) -> Verdict:
    """Judge one history: its ops in the order in which they were recorded, as docs/judge.md describes them.

    Takes time linear in the length of the history, reads included. Raises ConfigError for what is not a history.
    """
    return judge_history(pair(ops))


@_uncollected()
def judge_history(history: History) -> Verdict:
    """Judge a history that was read before. Raises ConfigError when a value is written twice to a key."""
    evidence = _EVIDENCE[history.model](history)
    anomalies = [
        _anomaly(finding.name, history, finding.transactions, (finding.words,))
        for finding in evidence.findings.values()
    ]
    anomalies += [_explain(evidence, cycle) for cycle in cycles(evidence.graph)]
    gravity = list(FORBIDDEN_BY)
    return Verdict(
        model=history.model,
        ok=history.ending.count(Ending.OK),
        failed=history.ending.count(Ending.FAIL),
        unknown=history.ending.count(Ending.UNKNOWN),
        anomalies=tuple(sorted(anomalies, key=lambda anomaly: gravity.index(anomaly.name))),
    )


def _anomaly(name: str, history: History, numbers: Sequence[int], words: Sequence[str], drawing: str = "") -> Anomaly:
    return Anomaly(
        name=name,
        forbidden_by=tuple(level for level in Level if level in FORBIDDEN_BY[name]),
        transactions=tuple(show_transaction(history, number) for number in numbers),
        words=tuple(words),
        drawing=drawing,
    )


def _explain(evidence: Evidence, cycle: Cycle) -> Anomaly:
    """A cycle in words and as a drawing."""
    numbers = cycle.numbers
    steps = [
        (before, kind, after, _reason(evidence, before, kind, after))
        for before, kind, after in zip(numbers, cycle.kinds, (*numbers[1:], numbers[0]), strict=True)
    ]
    words = [f"T{before} comes before T{after}: {reason}" for before, _, after, reason in steps]
    words.append(f"So T{numbers[0]} would come before itself")
    drawing = []
    for before, kind, _, _ in steps:
        drawing += [f"│   {show_transaction(evidence.history, before)}", f"│    ▼ {KINDS[kind]}"]
    drawing[0] = drawing[0].replace("│   ", "┌─▶ ", 1)
    drawing[-1] = drawing[-1].replace("│    ▼", "└────┘", 1)
    return _anomaly(cycle.name, evidence.history, numbers, words, "\n".join(drawing))


def _reason(evidence: Evidence, before: int, kind: int, after: int) -> str:
    """Why one transaction comes before another, in a sentence."""
    history = evidence.history
    if kind == PROCESS:
        return f"T{before} ended before T{after} began, in the same process {show(history.process[before])}"
    if kind == REALTIME:
        ended, began = history.place(history.end[before]), history.place(history.begin[after])
        return f"T{before} ended ({ended}) before T{after} began ({began})"
    return evidence.why(kind, before, after)
