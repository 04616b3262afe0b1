"""Histories of simulated databases, with the verdicts of the Elle checker: ``histories.jsonl.gz``."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodoubt.judge import Level, Verdict

FILE = Path(__file__).parent / "histories.jsonl.gz"


@dataclass(frozen=True)
class Recording:
    """A history, and for each level whether Elle says that it holds, with the anomalies that it found."""

    name: str
    ops: list[dict[str, Any]]
    verdicts: dict[str, tuple[bool, list[str] | None]]

    def disagreements(self, verdict: Verdict) -> list[str]:
        """The levels about which a verdict says something else.

        Where reads contradict each other Elle takes the longest for the order of versions; we take what all of them agree on.
        So it may know of a dirty write that we don't, and of nothing else.
        """
        return [
            level
            for level in Level
            if (theirs := self.verdicts.get(level)) is not None
            and verdict.holds(level) != theirs[0]
            and not (level == Level.READ_UNCOMMITTED and self._is_contradictory and not theirs[0])
        ]

    @property
    def _is_contradictory(self) -> bool:
        return any("incompatible-order" in (found or ()) for _, found in self.verdicts.values())


def _read() -> list[Recording]:
    with gzip.open(FILE, "rt", encoding="utf-8") as lines:
        objects = [json.loads(line) for line in lines]
    return [
        Recording(
            one["name"],
            one["ops"],
            {level: (verdict[0], verdict[1]) for level, verdict in one["verdict"].items() if verdict is not None},
        )
        for one in objects
    ]


RECORDINGS = _read()
