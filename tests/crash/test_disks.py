"""Disks that fail below a server (C19): no forced write succeeds any more, or no byte is left.

Both servers answer a log that cannot be forced by dying at once. What they had written before may be there after their
restart or not: no answer was given, so both are right, and only one of them may be true everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import asyncpg
import pymysql
import pytest

from nodoubt import AsyncTransactionManager
from nodoubt.testing.disks import SmallDisk, failed_syncs, failing_sync
from nodoubt.testing.processes import await_fact
from nodoubt.testing.servers import MariaDBServer, PostgreSQLServer, Server
from nodoubt.torture.grounds import SERVERS
from tests.crash.conftest import fresh_nodes
from tests.crash.harness import Victim, check, purge, query, settle
from tests.crash.matrix import FULL, UNFORCED
from tests.crash.points import Case
from tests.crash.victim import DOMAIN, run

Start = Callable[..., Victim]


def stand_still(case: Case, nodes: dict[str, str], start: Start, work_id: int) -> Victim:
    victim = start(nodes=nodes, nodes_in_order=case.names, id=work_id, end=case.end, point=case.point, action="pause")
    assert victim.hear("struck"), f"{case.point} was never reached: {victim.said}"
    return victim


async def judge(case: Case, nodes: dict[str, str], victim: Victim, work_id: int) -> None:
    assert victim.end() == 0
    await settle(nodes)
    # Where the decision was marked complete and nobody heard of it, evidence is the next purge's.
    await purge(nodes)
    end = check(nodes, case.names, work_id, victim.said["gid"], told=victim.said["told"])
    if case.c in ("C8", "C11"):
        assert end == "committed"


@pytest.mark.parametrize("case", UNFORCED.cases, ids=str)
async def test_unforced(
    case: Case,
    nodes: dict[str, str],
    postgresql: PostgreSQLServer,
    mariadb: MariaDBServer,
    start: Start,
    work_id: int,
) -> None:
    server = postgresql if case.variant.startswith("postgresql") else mariadb
    victim = stand_still(case, nodes, start, work_id)
    with failing_sync(server) as log:
        victim.go_on()
        await_fact(lambda: failed_syncs(log) > 0)
    server.kill()
    server.restart()
    await judge(case, nodes, victim, work_id)


@dataclass(frozen=True)
class Small:
    """Servers on disks of their own, by kind, and the nodes on them."""

    servers: Mapping[str, Server]
    disks: Mapping[str, SmallDisk]
    nodes: dict[str, str]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    with ExitStack() as stack:
        disks = {kind: SmallDisk() for kind in ("postgresql", "mariadb")}
        for disk in disks.values():
            stack.callback(disk.close)
        # Without recycled files each switch of the log needs a new one; and nobody but us writes to it, before the disk is full.
        alone = {"wal_level": "minimal", "max_wal_senders": "0", "autovacuum": "off", "checkpoint_timeout": "1h"}
        settings = {**SERVERS["postgresql"][1], "wal_recycle": "off", **alone}
        postgresql = stack.enter_context(PostgreSQLServer.start(settings, within=disks["postgresql"].folder))
        mariadb = stack.enter_context(MariaDBServer.start(SERVERS["mariadb"][1], within=disks["mariadb"].folder))
        nodes = stack.enter_context(fresh_nodes(postgresql, mariadb, tmp_path_factory.mktemp("small")))
        yield Small({"postgresql": postgresql, "mariadb": mariadb}, disks, nodes)


@pytest.mark.parametrize("case", FULL.cases, ids=str)
async def test_full(case: Case, small: Small, start: Start, work_id: int) -> None:
    server, disk = small.servers["postgresql"], small.disks["postgresql"]
    victim = stand_still(case, small.nodes, start, work_id)
    query(small.nodes["postgresql"], "SELECT pg_switch_wal()")
    log = server.folder / "log"
    known = log.stat().st_size
    disk.fill()
    victim.go_on()
    await_fact(lambda: b"No space left on device" in log.read_bytes()[known:])
    server.kill()
    disk.clear()
    server.restart()
    await judge(case, small.nodes, victim, work_id)


#: PostgreSQL would compress them.
CREATE = {
    "postgresql": "CREATE TABLE pad (text text); ALTER TABLE pad ALTER text SET STORAGE EXTERNAL",
    "mariadb": "CREATE TABLE pad (text longtext)",
}
ROWS = {
    "postgresql": "INSERT INTO pad SELECT repeat(md5(n::text), 30000) FROM generate_series(1, 1000) AS n",
    "mariadb": "INSERT INTO pad SELECT repeat(md5(seq), 30000) FROM seq_1_to_1000",
}


@pytest.mark.parametrize("kind", ROWS)
async def test_full_beneath_a_statement(kind: str, small: Small, work_id: int) -> None:
    """The driver's error reaches the user, nothing is left of the transaction, and the next one finds all as it was, even if
    the server died of it."""
    query(small.nodes[kind], CREATE[kind])
    async with AsyncTransactionManager.open(small.nodes, domain=DOMAIN, settle=False) as tm:

        async def work(*statements: str) -> str:
            async with tm.transaction(home="sqlite") as tx:
                for name in ("sqlite", kind):
                    await run(await tx.on(name), f"INSERT INTO work VALUES ({work_id})")
                for statement in statements:
                    await run(await tx.on(kind), statement)
            return tx.gid

        small.disks[kind].fill()
        with pytest.raises((asyncpg.DiskFullError, pymysql.OperationalError, pymysql.InternalError)):
            await work(ROWS[kind])
        small.servers[kind].kill()
        small.disks[kind].clear()
        small.servers[kind].restart()
        gid = await work()
    assert check(small.nodes, ("sqlite", kind), work_id, gid, "committed") == "committed"
