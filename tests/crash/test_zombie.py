"""The zombie (C16): stopped at each boundary from C3 to C9, settled elsewhere, then woken. It must meet what was decided."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.crash.harness import Victim, check, impatient, settle
from tests.crash.matrix import ZOMBIE
from tests.crash.points import Case


@pytest.mark.parametrize("case", ZOMBIE.cases, ids=str)
async def test_stopped_settled_and_woken(
    case: Case, nodes: dict[str, str], start: Callable[..., Victim], work_id: int
) -> None:
    victim = start(nodes=nodes, nodes_in_order=case.names, id=work_id, end=case.end, point=case.point, action="stop")
    victim.wait_until_stopped()
    async with impatient(nodes) as tm:
        first = await tm.settle(grace_s=0)
    # Nobody can take a SQLite database from a process that is alive: its branch waits, and as home it makes the others wait.
    held = set(case.names) if case.names[0] == "sqlite" else {"sqlite"}
    assert {doubt.node for doubt in first.waiting} <= held, first
    os.kill(victim.pid, signal.SIGCONT)
    assert victim.end() == 0
    await settle(nodes)
    end = check(nodes, case.names, work_id, victim.said["gid"], told=victim.said["told"])
    if case.c in ("C8", "C9"):
        assert end == "committed"
