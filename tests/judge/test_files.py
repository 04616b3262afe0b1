"""Recordings: both layouts, plain and gzip, and every way in which a file can be none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from nodoubt.errors import ConfigError
from nodoubt.judge import judge
from nodoubt.judge.files import histories
from nodoubt.judge.verdict import judge_history
from tests.judge.recorded import record, together

SKEW = together({"A": "ax1 ay1", "B": "rx1 ry"})


def lines(*objects: Any) -> bytes:
    return "".join(f"{json.dumps(one)}\n" for one in objects).encode()


def read(path: Path, content: bytes) -> dict[str, list[str]]:
    """The names of the histories in a file, and of the anomalies in each."""
    path.write_bytes(content)
    verdicts = {name: judge_history(history) for name, history in histories(path, lambda _: None)}
    return {name: [anomaly.name for anomaly in verdict.anomalies] for name, verdict in verdicts.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_both_layouts_are_read(path: Path, pack: Any) -> None:
    assert read(path, pack(lines(*SKEW))) == {"history.jsonl": ["G-single"]}
    assert read(path, pack(lines({"name": "skew", "seed": 7}, *SKEW))) == {"skew": ["G-single"]}
    assert read(path, pack(lines({"seed": 7}, *SKEW))) == {"history.jsonl": ["G-single"]}
    fine = {"name": "fine", "ops": record("A( A)", {"A": "ax1"}), "verdict": None}
    assert read(path, pack(lines(fine, {"ops": SKEW}))) == {"fine": [], "line 2": ["G-single"]}


def test_progress_is_told_by_lines(path: Path) -> None:
    path.write_bytes(lines(*record("A( A)", {"A": "ax1"})) + lines(*record("A( A)", {"A": "rx1"})) * 30_000)
    told: list[str] = []
    assert len(list(histories(path, told.append))) == 1
    assert told == [f"{path}: 50,000 lines read"]


INVOKE = {"type": "invoke", "process": 0, "value": [["append", "x", 1]]}
OK = {**INVOKE, "type": "ok"}


def ok(*ops: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return {**INVOKE, "value": list(ops)}, {**OK, "value": list(ops)}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "the file is empty"),
        (b"{", "line 1: not a JSON object"),
        (lines(INVOKE) + b'{"type": "ok", "proc', "line 2: not a JSON object"),
        (lines(INVOKE) + b"\n", "line 2: not a JSON object"),
        (lines([1]), "line 1: not a JSON object: a list"),
        (b"[" * 100_000, "line 1: not a JSON object"),
        (b"\xff\n", "line 1: not a JSON object"),
        (gzip.compress(lines(INVOKE, OK), mtime=0)[:-9], "cannot be read"),
        (gzip.compress(lines(INVOKE, OK), mtime=0)[:12] + b"\0" * 40, "cannot be read"),
        (lines({"name": "empty"}), "there is no transaction to judge"),
        (lines({"ops": []}), "line 1, there is no transaction to judge"),
        (lines({"ops": 1}), "line 1: its ops are no list"),
        (lines({"ops": SKEW}, INVOKE), "line 2: its ops are no list"),
        (lines({"ops": [INVOKE, 1]}), "line 1, op 1: not an op"),
        (lines(INVOKE, {"type": "ok"}), "line 2: not an op with type, process and value"),
        (lines({"name": "x"}, INVOKE, {"name": "y"}), "line 3: not an op"),
        (lines(INVOKE, INVOKE), "line 2: process 0 invokes while its transaction is still running"),
        (lines(OK), "line 1: process 0 completes what it has not invoked"),
        (lines({"seed": 1}, OK), "line 2: process 0 completes what it has not invoked"),
        (lines(INVOKE, {**OK, "type": "done"}), "line 2: type is 'done'"),
        (lines(INVOKE, {**OK, "type": []}), "line 2: type is []"),
        (lines({**INVOKE, "process": []}), "line 1: not an op"),
        (lines({**INVOKE, "value": None}, {**OK, "value": None}), "line 1: process 0: its value is no list of ops"),
        (lines(*ok(["append", "x"])), "line 1: process 0: ['append', 'x'] is not [function, key, value]"),
        (lines(*ok(["append", [], 1])), "is not [function, key, value]"),
        (lines(*ok(7)), "7 is not [function, key, value]"),
        (lines(*ok(["append", "x", 1], ["w", "x", 1])), "'w' is no function of a list-append history"),
        (lines(*ok(["w", "x", 1], ["append", "x", 1])), "'append' is no function of a rw-register history"),
        (lines(*ok([[], "x", 1])), "[] is no function"),
        (lines(*ok(["append", "x", None])), "None is written to 'x'"),
        (lines(*ok(["append", "x", [1]])), "[1] is written to 'x'"),
        (lines(*ok(["append", "x", 1], ["r", "x", 1])), "a read of 'x' gives 1, not a list or null"),
        (lines(*ok(["w", "x", 1], ["r", "x", [1]])), "a read of 'x' gives [1], not a single value or null"),
        (lines(*ok(["append", "x", 1], ["append", "x", 1])), "line 1: 1 is written to key x a second time"),
        (lines(*ok(["r", "x", [[1]]])), "line 1: a read of 'x' shows [1]"),
    ],
)
def test_what_is_no_history_is_refused_with_its_place(path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(path, content)
    assert refused.value.message.startswith(f"{path}: ")
    assert complaint in refused.value.message


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        list(histories(tmp_path / "none.jsonl", lambda _: None))
    with pytest.raises(ConfigError, match="Is a directory"):
        list(histories(tmp_path, lambda _: None))


def test_ops_without_a_file_are_refused_by_position() -> None:
    with pytest.raises(ConfigError, match="op 0: process 0 completes what it has not invoked"):
        judge([OK])
