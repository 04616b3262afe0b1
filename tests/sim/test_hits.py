"""What is left out of the table of what must be reached cannot be reached: derived from the engine, not told."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nodoubt
from nodoubt.engine.engine import Engine, Settings
from nodoubt.engine.worlds import AsyncWorld
from nodoubt.protocol import messages as m
from nodoubt.protocol.states import BRANCHES, PHASES, Phase
from nodoubt.protocol.verdicts import VERDICTS
from nodoubt.sim import explore, hits
from nodoubt.sim.plan import KINDS

PACKAGE = Path(nodoubt.__file__).parent


def test_everything_is_required_but_what_never_happens() -> None:
    required = hits.required()
    assert set(required["fault"]) == set(KINDS)
    assert len(required["crash point"]) == 13
    assert set(required["verdict"]) == {case.label for case in VERDICTS}
    assert len(required["transition"]) + len(hits.NEVER) == len(PHASES)
    assert len(required["transition of a branch"]) == len(BRANCHES)


@pytest.mark.parametrize("phase", Phase)
async def test_an_abort_is_asked_for_by_a_block_at_work_alone(phase: Phase) -> None:
    told: list[Any] = []
    settings = Settings(watch=lambda what, gid, message: told.append(message))
    work = Engine([], AsyncWorld(), domain="shop", settings=settings).begin()
    work.machine.phase = phase
    await work.roll_back("the block raised")
    asked = [message for message in told if isinstance(message, m.AbortRequested)]
    assert len(asked) == (phase is Phase.ACTIVE)
    assert (f"{phase} + AbortRequested" in hits.NEVER) == (not asked)


def makers(path: Path) -> Iterator[str]:
    """The functions of a file that make a request to abort."""
    for function in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("AbortRequested"):
                    yield f"{path.relative_to(PACKAGE)}:{function.name}"


def test_nobody_else_asks_for_an_abort() -> None:
    """``_ready_home`` stands between a block's end and the request to commit: the machine is active until then."""
    found = {
        maker
        for room in ("engine", "nodes", "protocol")
        for path in (PACKAGE / room).rglob("*.py")
        for maker in makers(path)
    }
    assert found == {"engine/work.py:roll_back", "engine/work.py:_ready_home"}


def test_what_never_happens_does_not() -> None:
    reached = {what for group, what in explore.batch(300, 300, "").hits if group == "transition"}
    assert "active + AbortRequested" in reached
    assert not reached.intersection(hits.NEVER)
