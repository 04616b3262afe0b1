"""The server killed with -9 and restarted (C17) while the transaction stands at each boundary from C3 to C11."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nodoubt.testing.servers import MariaDBServer, PostgreSQLServer
from tests.crash.harness import Victim, check, settle
from tests.crash.points import Case, cases

STANDING = [
    case
    for case in cases()
    if case.end == "commit" and case.c not in ("C1", "C2") and set(case.names[:2]) == {"postgresql", "mariadb"}
]


@pytest.mark.parametrize("killed", ["postgresql", "mariadb"])
@pytest.mark.parametrize("case", STANDING, ids=str)
async def test_server_killed(
    case: Case,
    killed: str,
    nodes: dict[str, str],
    postgresql: PostgreSQLServer,
    mariadb: MariaDBServer,
    start: Callable[..., Victim],
    work_id: int,
) -> None:
    server = postgresql if killed == "postgresql" else mariadb
    victim = start(nodes=nodes, nodes_in_order=case.names, id=work_id, end=case.end, point=case.point, action="pause")
    assert victim.hear("struck"), f"{case.point} was never reached: {victim.said}"
    server.kill()
    server.restart()
    victim.go_on()
    assert victim.end() == 0
    await settle(nodes)
    end = check(nodes, case.names, work_id, victim.said["gid"], told=victim.said["told"])
    if case.c in ("C8", "C9", "C10", "C11"):
        assert end == "committed"
