"""A process killed with -9 at every boundary between two orders, settled by another, by a new one, and by two at once."""

from __future__ import annotations

import pytest

from tests.crash.harness import DOMAIN, Victim, check, settle, settle_restarted
from tests.crash.points import Case, cases

#: After these facts home's answer is known: the end is certain.
_COMMITTED_FROM = ("C8", "C9", "C10", "C11")


@pytest.mark.parametrize("settled_by", ["another", "restarted", "two"])
@pytest.mark.parametrize("case", cases(), ids=str)
async def test_killed(case: Case, settled_by: str, nodes: dict[str, str], work_id: int) -> None:
    victim = Victim.start(
        nodes=nodes, domain=DOMAIN, nodes_in_order=case.names, id=work_id, end=case.end, point=case.point, action="kill"
    )
    assert victim.hear("struck"), f"{case.point} was never reached: {victim.said}"
    assert victim.end() == -9
    if settled_by == "restarted":
        settle_restarted(nodes)
    else:
        await settle(nodes, managers=2 if settled_by == "two" else 1)
    end = check(nodes, case.names, work_id, victim.said["gid"], told=None)
    if case.end != "commit" or case.c in ("C1", "C2", "C3", "C4", "C5", "C6"):
        assert end == "aborted"
    elif case.c in _COMMITTED_FROM:
        assert end == "committed"
    again = await settle(nodes)
    assert [report.settled for report in again] == [0], "settling again changes something"
