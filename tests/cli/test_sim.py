"""`nodoubt sim`: replay, explore, exit codes."""

from __future__ import annotations

import json

import pytest

from nodoubt.cli import main
from nodoubt.cli.common import Exit


def test_a_seed_is_replayed_with_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "--seed", "3"]) == Exit.FINE
    printed = capsys.readouterr().out
    assert printed.startswith("seed 3: ")
    assert "fact Enlisted(" in printed
    assert "nothing was violated\ntrace " in printed
    main(["sim", "--seed", "3", "--json"])
    assert json.loads(capsys.readouterr().out)["hash"] == printed.split()[-1]


def test_a_mistake_is_found_and_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sim", "--mutant", "commit-before-decision"]
    assert main([*words, "--first", "0", "--runs", "40", "--jobs", "1", "--json"]) == Exit.FINDING
    found = json.loads(capsys.readouterr().out)
    (reproduce,) = found["reproduce"]
    assert reproduce.endswith(" --mutant commit-before-decision")
    assert min(map(int, found["failures"])) == int(reproduce.split()[3])
    assert main([*words, "--seed", reproduce.split()[3]]) == Exit.FINDING
    assert "VIOLATED: " in capsys.readouterr().out


def test_what_was_never_reached_fails_when_all_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["sim", "--first", "1", "--runs", "2", "--jobs", "1"]
    assert main(few) == Exit.FINE
    assert main([*few, "--require-all"]) == Exit.UNREACHED
    assert "never reached: " in capsys.readouterr().out


def test_every_call_fails_once(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sim", "--every-call", "--branches", "1", "--jobs", "1"]
    assert main([*words, "--pairs", "20", "--json"]) == Exit.FINE
    found = json.loads(capsys.readouterr().out)
    assert (found["scripts"], found["failures"]) == (12, {})
    assert found["runs"] > 1400
    assert found["deepest"]["call"] > 20
    assert main([*words, "--pairs", "0", "--mutant", "lost-is-abort"]) == Exit.FINDING
    story = capsys.readouterr().out.partition('nodoubt sim --every-call "')[2].partition('"')[0]
    assert main(["sim", "--every-call", story]) == Exit.FINE
    assert main(["sim", "--every-call", story, "--mutant", "lost-is-abort"]) == Exit.FINDING
    assert "VIOLATED: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["--every-call", "typo"],
        ["--every-call", "--branches", "4"],
        ["--seed", "1", "--faults", "typo"],
        ["--runs", "0"],
        ["--minutes", "-1"],
        ["--mutant", "typo", "--seed", "1"],
    ],
)
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", *words]) == Exit.USAGE
    assert capsys.readouterr().out == ""
