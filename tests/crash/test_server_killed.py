"""The server killed with -9 and restarted (C17) while the transaction stands at each boundary from C3 to C11."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nodoubt.testing.servers import MariaDBServer, PostgreSQLServer
from tests.crash.harness import Victim, check, settle
from tests.crash.matrix import SERVER_KILLED
from tests.crash.points import Case


@pytest.mark.parametrize("case", SERVER_KILLED.cases, ids=str)
async def test_server_killed(
    case: Case,
    nodes: dict[str, str],
    postgresql: PostgreSQLServer,
    mariadb: MariaDBServer,
    start: Callable[..., Victim],
    work_id: int,
) -> None:
    server = postgresql if case.variant.startswith("postgresql") else mariadb
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
