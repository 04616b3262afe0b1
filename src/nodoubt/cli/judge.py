"""``nodoubt judge``: which isolation levels recorded histories contradict, and how."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodoubt.cli.common import EXIT_CODES, Exit, add_output_options, count, note, tell
from nodoubt.judge.levels import Level

if TYPE_CHECKING:
    from nodoubt.judge.verdict import Verdict

EXAMPLES = (
    "nodoubt judge history.jsonl",
    "nodoubt judge history.jsonl histories.jsonl.gz --level snapshot-isolation",
    "nodoubt judge histories.jsonl.gz --level read-committed --json",
)
_TEXT = """\
Judges recorded histories of transactions: which isolation levels they contradict, by which anomalies, with an example of each
in words and as a drawing. The files are JSON lines, plain or gzip. The exit code is 1 when a history contradicts --level."""

_END = "\n".join(
    [
        "levels:",
        *(f"  {level}" for level in Level),
        "",
        "examples:",
        *(f"  {example}" for example in EXAMPLES),
        "",
        EXIT_CODES,
    ]
)

_QUIET_S = 2.0
"""Seconds of work before, and between, two words of progress."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """A history's verdict, and where it is from."""

    file: Path
    name: str
    verdict: Verdict


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "judge",
        help="which isolation levels recorded histories contradict",
        description=_TEXT,
        epilog=_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="JSON lines, each a history or an op of the only one"
    )
    parser.add_argument(
        "--level",
        choices=[level.value for level in Level],
        default=Level.STRICT_SERIALIZABLE.value,
        metavar="LEVEL",
        help="the level that must hold (default: %(default)s)",
    )
    add_output_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """See the command's help. Raises ConfigError for what is not a history."""
    level = Level(arguments.level)
    judged = list(_judge(arguments.files))
    broken = [one for one in judged if not one.verdict.holds(level)]
    result = {
        "level": level.value,
        "holds": not broken,
        "histories": [{"file": str(one.file), "name": one.name, **one.verdict.as_json()} for one in judged],
    }
    tell(arguments, result, _lines(judged, len(broken), level))
    return Exit.FINDING if broken else Exit.FINE


def _judge(files: Sequence[Path]) -> Iterator[_Judged]:
    from nodoubt.judge.files import histories
    from nodoubt.judge.verdict import judge_history

    progress = _Progress()
    for file in files:
        for name, history in histories(file, progress.tell):
            progress.tell(f"{file}: judging {name}, {count(len(history.begin), 'transaction')}")
            yield _Judged(file, name, judge_history(history))


class _Progress:
    """Tells what is being done, when it takes long."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def tell(self, text: str) -> None:
        """Say it on stderr, unless something was said a moment ago."""
        now = time.monotonic()
        if now - self._told >= _QUIET_S:
            self._told = now
            note(text)


def _lines(judged: Sequence[_Judged], broken: int, level: Level) -> Iterator[str]:
    for one in judged:
        verdict = one.verdict
        against = verdict.against(level)
        holding = [other.value for other in Level if verdict.holds(other)]
        yield f"{one.name}: {level} {'does not hold' if against else 'holds'}"
        yield f"  {verdict.model} transactions: {verdict.ok} ok, {verdict.failed} failed, {verdict.unknown} unknown"
        yield f"  what holds: {'every level' if len(holding) == len(Level) else ', '.join(holding) or 'no level'}"
        for anomaly in verdict.anomalies:
            if anomaly not in against:
                yield f"  it allows {anomaly.name}, which is there; {anomaly.forbidden_by[0]} would not"
        for anomaly in against:
            yield f"  {anomaly.name}: forbidden by {anomaly.forbidden_by[0]} and all that is stronger"
            for sentence in anomaly.words:
                yield f"    {sentence}"
            for line in anomaly.drawing.splitlines() or anomaly.transactions:
                yield f"      {line}"
    if len(judged) > 1:
        yield f"{count(len(judged), 'history', 'histories')}; {level} does not hold in {broken}"
