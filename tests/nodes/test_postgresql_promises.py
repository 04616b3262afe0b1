"""What PostgreSQL must have done before a vote counts, and whose session it is that is ended, whatever is set there."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psycopg
import pytest

from nodoubt.testing.servers import PostgreSQLServer
from tests.conftest import DatabaseFactory
from tests.nodes.postgresql_lab import DRIVERS, Lab, said, scenario

#: Sessions whose statement was done and waits for a standby. One that is cancelled then has done it nevertheless.
CANCEL = """SELECT query, pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"""


@pytest.fixture(params=DRIVERS)
def lab(request: pytest.FixtureRequest, database: DatabaseFactory) -> Lab:
    return Lab(request.param, database)


@pytest.fixture
def lonely() -> Iterator[PostgreSQLServer]:
    """A server that never sees its standby; only those commits wait that ask for it."""
    settings = {"synchronous_standby_names": "nobody", "synchronous_commit": "local"}
    with PostgreSQLServer.start(settings) as server:
        yield server


@contextlib.contextmanager
def waiting(server: PostgreSQLServer) -> Iterator[list[str]]:
    """What waited for a standby meanwhile, and was not left waiting."""
    waited: list[str] = []
    over = threading.Event()

    def release() -> None:
        with psycopg.connect(server.url, autocommit=True) as admin:
            while not over.is_set():
                waited.extend(query for query, _ in admin.execute(CANCEL).fetchall())

    watcher = threading.Thread(target=release)
    watcher.start()
    try:
        yield waited
    finally:
        over.set()
        watcher.join()


@scenario
async def test_a_vote_is_on_the_standbys_too_whatever_the_block_said(lab: Lab, lonely: PostgreSQLServer) -> None:
    node = await lab.node(url=lonely.url)
    _, branch = await lab.branch(node)
    await lab.do(branch.connection, "SET LOCAL synchronous_commit = off")
    await lab.do(branch.connection, "INSERT INTO t VALUES (1)")
    with waiting(lonely) as waited:
        assert said(await branch.prepare()) == "yes"
    assert any("PREPARE TRANSACTION" in query for query in waited)
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
