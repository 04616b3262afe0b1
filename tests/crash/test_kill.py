"""A process killed with -9 at every boundary between two orders, settled by another, by a new one, and by two at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.crash.harness import Victim, check, settle, settle_restarted
from tests.crash.matrix import KILLED
from tests.crash.points import Case

#: Before these the decision was not sent, after these it is durable; C7 may end either way.
UNDECIDED = ("C1", "C2", "C3", "C4", "C5", "C6")
DECIDED = ("C8", "C9", "C10", "C11")


@pytest.mark.parametrize("case", KILLED.cases, ids=str)
async def test_killed(case: Case, nodes: dict[str, str], start: Callable[..., Victim], work_id: int) -> None:
    victim = start(nodes=nodes, nodes_in_order=case.names, id=work_id, end=case.end, point=case.point, action="kill")
    assert victim.hear("struck"), f"{case.point} was never reached: {victim.said}"
    assert victim.end() == -9
    if case.settled_by == "restarted":
        settle_restarted(nodes)
    else:
        await settle(nodes, managers=2 if case.settled_by == "two" else 1)
    end = check(nodes, case.names, work_id, victim.said["gid"], told=None)
    if case.end != "commit" or case.c in UNDECIDED:
        assert end == "aborted"
    elif case.c in DECIDED:
        assert end == "committed"
    again = await settle(nodes)
    assert [report.settled for report in again] == [0], "settling again changes something"
