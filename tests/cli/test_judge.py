"""`nodoubt judge`: what it prints, its exit codes, and the examples of its help and its page."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from pathlib import Path

import pytest

from nodoubt.cli import judge as command
from nodoubt.cli.common import EXIT_CODES
from nodoubt.judge import Level
from nodoubt.judge.levels import FORBIDDEN_BY
from tests.cli.conftest import Run
from tests.docs_shop import ROOT, blocks, commands
from tests.docs_shop import printed as said
from tests.judge.cases import RC
from tests.judge.recorded import record, together
from tests.judge.recordings import FILE, RECORDINGS

PAGE = ROOT / "docs" / "judge.md"
FINE = record("A( A) B( B)", {"A": "ax1", "B": "rx1 ax2"})
SKEW = together({"A": "ax1 ay1", "B": "rx1 ry"})


def write(name: str, *objects: object) -> None:
    text = "".join(f"{json.dumps(one)}\n" for one in objects).encode()
    Path(name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)


def test_a_history_that_holds_is_0_and_says_so(run: Run) -> None:
    write("history.jsonl", *FINE)
    printed = run("judge", "history.jsonl")
    assert (printed.code, printed.err) == (0, "")
    assert printed.out.splitlines() == [
        "history.jsonl: strict-serializable holds",
        "  list-append transactions: 2 ok, 0 failed, 0 unknown",
        "  what holds: every level",
    ]


def test_a_history_that_does_not_hold_is_1_and_is_explained(run: Run) -> None:
    write("history.jsonl", {"name": "skew"}, *SKEW)
    printed = run("judge", "history.jsonl")
    assert (printed.code, printed.err) == (1, "")
    assert printed.out.splitlines() == [
        "skew: strict-serializable does not hold",
        "  list-append transactions: 2 ok, 0 failed, 0 unknown",
        "  what holds: read-uncommitted, read-committed",
        "  G-single: forbidden by snapshot-isolation and all that is stronger",
        "    T1 comes before T0: T1 read key y = [], without 1, which T0 appended",
        "    T0 comes before T1: T1 read key x = [1], and T0 appended 1",
        "    So T1 would come before itself",
        "      ┌─▶ T1 (process 11): r x [1], r y []",
        "      │    ▼ rw",
        "      │   T0 (process 10): append x 1, append y 1",
        "      └────┘ wr",
    ]


def test_a_weaker_level_may_hold(run: Run) -> None:
    write("history.jsonl", *SKEW)
    printed = run("judge", "history.jsonl", "--level", "read-committed")
    assert printed.code == 0
    assert "history.jsonl: read-committed holds\n" in printed.out
    assert "  it allows G-single, which is there; snapshot-isolation would not\n" in printed.out


@pytest.mark.parametrize("level", list(Level))
def test_the_exit_code_is_that_of_the_level(run: Run, level: Level) -> None:
    write("history.jsonl", *SKEW)
    assert run("judge", "history.jsonl", "--level", level.value).code == (0 if level in RC else 1)


def test_json_is_one_object_with_every_history(run: Run) -> None:
    write("fine.jsonl", *FINE)
    printed = run("judge", "fine.jsonl", str(FILE), "--json")
    assert (printed.code, printed.err) == (1, "")
    told = printed.json
    assert (told["level"], told["holds"]) == ("strict-serializable", False)
    assert [(one["file"], one["name"]) for one in told["histories"]] == [
        ("fine.jsonl", "fine.jsonl"),
        *((str(FILE), recording.name) for recording in RECORDINGS),
    ]
    first, second = told["histories"][:2]
    assert first["levels"] == dict.fromkeys(Level, True)
    assert first["transactions"] == {"ok": 2, "fail": 0, "unknown": 0}
    assert first["anomalies"] == []
    assert second["model"] == "list-append"
    assert second["levels"] == dict.fromkeys(Level, False)
    gravest = second["anomalies"][0]
    assert gravest["name"] == "G0"
    assert gravest["forbidden_by"] == list(Level)
    assert len(gravest["words"]) == len(gravest["transactions"]) + 1
    assert gravest["drawing"].count("▼") == len(gravest["transactions"]) - 1


def test_the_help_has_the_examples_and_the_exit_codes(run: Run) -> None:
    printed = run("judge", "--help")
    assert printed.code == 0
    assert EXIT_CODES in printed.out
    for example in command.EXAMPLES:
        assert f"  {example}\n" in printed.out
    for level in Level:
        assert f"  {level}\n" in printed.out


@pytest.mark.parametrize("example", command.EXAMPLES)
def test_the_examples_work(run: Run, example: str) -> None:
    write("history.jsonl", *FINE)
    write("histories.jsonl.gz", {"name": "one", "ops": FINE}, {"name": "two", "ops": FINE})
    printed = run(*shlex.split(example)[1:])
    assert (printed.code, printed.err) == (0, "")
    assert "two" in printed.out or "gz" not in example


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("judge",), "FILE"),
        (("judge", "none.jsonl"), "No such file"),
        (("judge", "broken.jsonl"), "broken.jsonl: line 2: not a JSON object"),
        (("judge", "fine.jsonl", "broken.jsonl"), "broken.jsonl: line 2"),
        (("judge", "fine.jsonl", "--level", "repeatable-read"), "invalid choice: 'repeatable-read'"),
    ],
)
def test_what_cannot_be_judged_is_2_and_nothing_is_printed(run: Run, words: tuple[str, ...], message: str) -> None:
    write("fine.jsonl", *FINE)
    Path("broken.jsonl").write_bytes(Path("fine.jsonl").read_bytes()[:100])
    printed = run(*words)
    assert (printed.code, printed.out) == (2, "")
    assert message in printed.err
    assert "  hint: " in printed.err
    printed = run(*words, "--json")
    assert (printed.code, printed.err) == (2, "")
    assert message in printed.json["error"]


def test_long_work_tells_what_it_does(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_QUIET_S", 0.0)
    write("history.jsonl", *FINE)
    printed = run("judge", "history.jsonl", "--json")
    assert printed.json["holds"] is True
    assert printed.err == "history.jsonl: judging history.jsonl, 2 transactions\n"


def test_the_page_shows_what_is_printed(run: Run) -> None:
    (history,), (shown,) = blocks(PAGE, "jsonl"), blocks(PAGE, "text")
    Path("history.jsonl").write_text(history, "utf-8")
    printed = run("judge", "history.jsonl")
    assert (printed.code, printed.out) == (1, shown)
    (weaker,) = commands(PAGE)
    assert run(*shlex.split(weaker)[1:]).code == 0


def test_the_pages_program_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = blocks(PAGE, "python")
    exec(compile(program, PAGE.name, "exec"), {})
    assert capsys.readouterr().out.splitlines() == said(program)


def test_the_page_has_every_anomaly_and_its_level() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \| .+ \| ([\w-]+) \|$", PAGE.read_text("utf-8"), re.MULTILINE))
    assert rows == {
        name: next(level.value for level in Level if level in forbidden)
        for name, forbidden in FORBIDDEN_BY.items()
        if not name.endswith(("-process", "-realtime"))
    }
