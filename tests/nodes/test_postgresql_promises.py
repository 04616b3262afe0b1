"""What PostgreSQL must have done before a vote counts, and whose session it is that is ended, whatever is set there."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psycopg
import pytest

from nodoubt.nodes.contract import Ended
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


@scenario
async def test_a_role_that_is_set_at_login_is_the_blocks_alone(lab: Lab) -> None:
    """Branches belong to who logged in; recovery is he, too, sees his sessions, and may end them."""
    admin = lab.outside(await lab.node(url=(url := lab.database("postgresql"))))
    ((name,),) = admin.execute("SELECT current_database()").fetchall()
    admin.execute(f"CREATE ROLE owner_{name}; CREATE ROLE login_{name} LOGIN IN ROLE owner_{name}")
    admin.execute(f"GRANT ALL ON SCHEMA nodoubt, public TO owner_{name}")
    admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA nodoubt, public TO owner_{name}")
    admin.execute(f"ALTER ROLE login_{name} SET role = owner_{name}")
    other = await lab.node(url=url.replace("postgres@", f"login_{name}@"))
    branch_id, branch = await lab.branch(other)
    assert await lab.rows(branch.connection, "SELECT current_user::text") == [(f"owner_{name}",)]
    await lab.do(branch.connection, "INSERT INTO t VALUES (1)")
    assert said(await branch.prepare()) == "yes"
    assert branch._session is not None
    assert "None" not in branch._session.handle
    assert await other.finish(branch_id, commit=True, owner=branch._session.handle) is Ended.DONE
    branch.hand_over()
    assert [finding for finding in await other.inspect() if finding.level == "error"] == []
    await other.close()
    admin.execute(f"DROP OWNED BY owner_{name}, login_{name}; DROP ROLE owner_{name}, login_{name}")
