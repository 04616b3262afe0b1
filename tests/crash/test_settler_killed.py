"""A settler killed with -9 between its own steps (C13), and a purge (C12): another one takes up what it left."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.crash.harness import Victim, check, purge, settle
from tests.crash.matrix import PURGE_KILLED, SETTLER_KILLED
from tests.crash.points import Case

#: Where the owner died, by what the settler finds.
LEFT = {"abort": "order Decide 1", "commit": "order CommitBranch 1"}


@pytest.mark.parametrize("case", SETTLER_KILLED.cases, ids=str)
async def test_settler_killed(case: Case, nodes: dict[str, str], start: Callable[..., Victim], work_id: int) -> None:
    owner = start(nodes=nodes, nodes_in_order=case.names, id=work_id, end="commit", point=LEFT[case.end], action="kill")
    assert owner.end() == -9
    settler = start(nodes=nodes, end="settle", rounds=1, point=case.point, action="kill")
    assert settler.hear("struck"), f"{case.point} was never reached: {settler.said}"
    assert settler.end() == -9
    await settle(nodes)
    if case.c == "C11":
        await purge(nodes)
    end = check(nodes, case.names, work_id, owner.said["gid"], told=None)
    assert end == {"abort": "aborted", "commit": "committed"}[case.end]
    assert [report.settled for report in await settle(nodes)] == [0], "settling again changes something"


@pytest.mark.parametrize("case", PURGE_KILLED.cases, ids=str)
async def test_killed_while_purging(
    case: Case, nodes: dict[str, str], start: Callable[..., Victim], work_id: int
) -> None:
    victim = start(
        nodes=nodes, nodes_in_order=case.names, id=work_id, end="commit", purge=True, point=case.point, action="kill"
    )
    assert victim.end() == -9
    await settle(nodes)
    await purge(nodes)
    assert check(nodes, case.names, work_id, victim.said["gid"], victim.said["told"]) == "committed"
