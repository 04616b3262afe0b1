"""What PostgreSQL must have done before a vote counts, and whose session it is that is ended, whatever is set there."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest

from nodoubt.testing.servers import PostgreSQLServer
from tests.conftest import DatabaseFactory
from tests.nodes.postgresql_lab import DRIVERS, Lab, said, scenario

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%%PREPARE TRANSACTION%%'"


@pytest.fixture(params=DRIVERS)
def lab(request: pytest.FixtureRequest, database: DatabaseFactory) -> Lab:
    return Lab(request.param, database)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQLServer]:
    server = PostgreSQLServer.start()
    yield server
    server.stop()


def await_standbys(url: str, names: str) -> None:
    """Have commits wait for standbys of these names, of which there are none; only those that ask for it."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("ALTER ROLE postgres SET synchronous_commit = local")
        admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        admin.execute("SELECT pg_reload_conf()")


@scenario
async def test_a_vote_is_on_the_standbys_too_whatever_the_block_said(lab: Lab, server: PostgreSQLServer) -> None:
    node = await lab.node(url=server.url)
    lab.outside(node).execute("TRUNCATE t")
    _, branch = await lab.branch(node)
    await lab.do(branch.connection, "SET LOCAL synchronous_commit = off")
    await lab.do(branch.connection, "INSERT INTO t VALUES (1)")
    await_standbys(server.url, "nobody")
    waited: list[bool] = []

    def release() -> None:
        with psycopg.connect(server.url, autocommit=True) as admin:
            while not over.is_set() and not waited:
                if admin.execute(WAITING).fetchone() == (1,):
                    waited.append(True)
        await_standbys(server.url, "")

    over = threading.Event()
    watcher = threading.Thread(target=release)
    watcher.start()
    try:
        answer = await branch.prepare()
    finally:
        over.set()
        watcher.join()
    assert said(answer) == "yes"
    assert waited == [True]
    await branch.commit()


@scenario
async def test_an_owner_is_ended_in_whatever_zone_its_beginning_is_told(lab: Lab) -> None:
    node = await lab.node()
    branch_id, branch = await lab.branch(node)
    ((pid,),) = await lab.rows(branch.connection, "SELECT pg_backend_pid()")
    outside = lab.outside(node)
    ((name,),) = outside.execute("SELECT current_database()").fetchall()
    outside.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'")
    assert branch._session is not None
    session = await node.connect()
    try:
        assert await node.dialect.end_owner(session, branch_id, branch._session.handle)
    finally:
        await session.close()
    assert outside.execute("SELECT pid FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchall() == []
    branch.hand_over()
