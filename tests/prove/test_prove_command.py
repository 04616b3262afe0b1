"""``nodoubt prove enumerate``."""

from __future__ import annotations

import json

import pytest

from nodoubt.cli import main
from nodoubt.cli.prove import FAULTS
from nodoubt.prove import explorer
from nodoubt.prove.databases import Fault
from nodoubt.prove.explorer import Scope


def test_a_world_that_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prove", "enumerate", "--branches", "3", "--settlers", "1", "--faults", "crash"]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("3 branches, 1 settler, crash: ")
    assert out.endswith("all invariants hold\n")


def test_a_world_that_breaks_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prove", "enumerate", "--settlers", "0"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("BROKEN")
    assert lines[1] == "  1. owner sends PREPARE to left: PREPARE"
    assert lines[-1] == "BROKEN: from here nothing can be settled any more"


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prove", "enumerate", "--settlers", "0", "--faults", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (world,) = result["worlds"]
    assert (result["ok"], world["faults"], world["wrong"]) == (True, [], "")


def test_worlds_are_told_in_their_order(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is explored first: it is small, and has a process of its own."""
    scopes = [Scope(branches=2, settlers=settlers, faults=frozenset({Fault.CRASH})) for settlers in (1, 0)]
    monkeypatch.setattr(explorer, "STANDARD", tuple(scopes))
    assert main(["prove", "enumerate", "--jobs", "2"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 branches, 1 settler, crash: ")
    assert lines[0].endswith("all invariants hold")
    assert lines[1].startswith("2 branches, 0 settlers, crash: ")
    assert lines[1].endswith("BROKEN")


def test_no_process_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prove", "enumerate", "--jobs", "0"]) == 2
    assert "--jobs: 0 is not more than 0" in capsys.readouterr().err


def test_every_fault_can_be_named() -> None:
    assert list(FAULTS) == [fault.name.lower() for fault in Fault]
