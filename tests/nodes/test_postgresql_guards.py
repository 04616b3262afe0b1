"""The guard rails on a user's connection to PostgreSQL, with each driver."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg import sql

from nodoubt.errors import GuardError
from nodoubt.protocol.ids import new_gid
from tests.conftest import DatabaseFactory
from tests.nodes.postgresql_lab import DRIVERS, Lab, said, scenario, settle


@pytest.fixture(params=DRIVERS)
def lab(request: pytest.FixtureRequest, database: DatabaseFactory) -> Lab:
    return Lab(request.param, database)


@pytest.fixture(params=DRIVERS[1:])
def psycopg_lab(request: pytest.FixtureRequest, database: DatabaseFactory) -> Lab:
    return Lab(request.param, database)


@pytest.fixture
def asyncpg_lab(database: DatabaseFactory) -> Lab:
    return Lab("asyncpg", database)


ENDS = (
    "BEGIN",
    "start transaction",
    "COMMIT",
    "end",
    "ABORT",
    "ROLLBACK",
    "PREPARE TRANSACTION 'x'",
    "SELECT 1; /* hidden */ COMMIT",
    "/* a /* b */ c */ COMMIT",
    "/* a /* b */ don't */ COMMIT; -- '",
    "SELECT 1 AS a$x$; COMMIT; SELECT 1 AS b$x$",
    "SELECT 1 AS a$$; COMMIT; SELECT 1 AS b$$",
    "SELECT 1 WHERE 'a' LIKE'C:\\'; COMMIT; SELECT 'x'",
    "SELECT name'\\'; COMMIT; SELECT 'x'",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; END; COMMIT",
    "DISCARD ALL",
    "DEALLOCATE ALL",
    "RESET ALL",
)
BOUNDS = (
    "SET idle_in_transaction_session_timeout = 0",
    'SET LOCAL "idle_in_transaction_session_timeout" TO DEFAULT',
    "RESET idle_in_transaction_session_timeout",
    "SELECT set_config('idle_in_transaction_session_timeout', '0', false)",
    "UPDATE pg_settings SET setting = '0' WHERE name = 'idle_in_transaction_session_timeout'",
    "SELECT \"set_config\"( 'Idle_In_Transaction_Session_Timeout', '0', false)",
)
MODES = (
    "SET TRANSACTION READ WRITE",
    "SET LOCAL transaction isolation level read committed, read write",
    "SET transaction_read_only = off",
    "SELECT set_config('transaction_read_only', 'off', true)",
)
NOT_PREPARED = ("LISTEN x", "NOTIFY x", "CREATE TEMP TABLE x (k int)", "DECLARE c CURSOR WITH HOLD FOR SELECT 1")


@scenario
async def test_forbidden_statements_are_named_and_doom_the_branch(lab: Lab) -> None:
    node = await lab.node()
    for statement in (*ENDS, *BOUNDS, *MODES, *NOT_PREPARED):
        _, branch = await lab.branch(node)
        with pytest.raises(GuardError, match="on node 'stock'") as caught:
            await lab.do(branch.connection, statement)
        assert branch.misuse is caught.value, statement
        await branch.roll_back(prepared=False)


@scenario
async def test_statements_that_only_look_like_forbidden_ones(lab: Lab) -> None:
    node = await lab.node()
    _, branch = await lab.branch(node)
    for statement in (
        "SHOW idle_in_transaction_session_timeout",
        "SELECT 'SET idle_in_transaction_session_timeout = 0'",
        "SELECT current_setting('transaction_read_only')",
        "SELECT set_config('app.reader', 'transaction_read_only', true)",
        "SET LOCAL statement_timeout = 0",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END",
        "CREATE FUNCTION g() RETURNS void LANGUAGE sql begin atomic end; SELECT 1",
        "SET TRANSACTION READ ONLY",
    ):
        await lab.do(branch.connection, statement)
    assert branch.misuse is None
    await branch.roll_back(prepared=False)


@scenario
async def test_home_may_do_what_cannot_be_prepared(lab: Lab) -> None:
    node = await lab.node()
    for statement in NOT_PREPARED:
        _, branch = await lab.branch(node, home=True)
        await lab.do(branch.connection, statement)
        assert branch.misuse is None, statement
        assert said(await branch.decide({})) == "yes", statement


REFUSED = {
    "asyncpg": ("close", "terminate", "reset", "reload_schema_state"),
    "psycopg": (
        *("commit", "rollback", "close", "cancel", "cancel_safe", "set_autocommit", "xid"),
        *("tpc_begin", "tpc_prepare", "tpc_commit", "tpc_rollback", "tpc_recover"),
    ),
}


@scenario
async def test_refused_methods(lab: Lab) -> None:
    node = await lab.node()
    for method in REFUSED[lab.driver.partition("-")[0]]:
        _, branch = await lab.branch(node)
        with pytest.raises(GuardError, match=method) as caught:
            getattr(branch.connection, method)
        assert branch.misuse is caught.value
        await branch.roll_back(prepared=False)


@scenario
async def test_a_leaked_connection_is_dead(lab: Lab) -> None:
    node = await lab.node()
    _, branch = await lab.branch(node)
    leaked = branch.connection
    await branch.roll_back(prepared=False)
    branch.fence()
    _, following = await lab.branch(node)
    with pytest.raises(GuardError, match="over"):
        await lab.do(leaked, "INSERT INTO t VALUES (1)")
    assert following.misuse is None
    assert said(await following.prepare()) == "yes"
    await following.commit()
    assert lab.keys(node) == []


@scenario
async def test_a_method_that_was_kept_is_dead(lab: Lab) -> None:
    """Although the driver's own serves the session's next branch."""
    node = await lab.node(pool_size=1)
    _, branch = await lab.branch(node)
    execute = branch.connection.execute
    assert inspect.iscoroutinefunction(execute) is lab.is_async
    await settle(execute("SELECT 1"))
    await branch.roll_back(prepared=False)
    _, following = await lab.branch(node)
    with pytest.raises(GuardError, match="over"):
        await settle(execute("INSERT INTO t VALUES (1)"))
    assert said(await following.prepare()) == "yes"
    await following.commit()
    assert lab.keys(node) == []


@scenario
async def test_two_operations_at_once(lab: Lab) -> None:
    node = await lab.node()
    outside = lab.outside(node)
    outside.execute("SELECT pg_advisory_lock(1)")
    _, branch = await lab.branch(node)
    slow = "SELECT pg_advisory_xact_lock(1)"
    errors: list[Any] = []
    if lab.is_async:
        release = lab.when_waiting(node, lambda: outside.execute("SELECT pg_advisory_unlock(1)"))
        calls = (lab.do(branch.connection, slow), lab.do(branch.connection, "SELECT 1"))
        errors += await asyncio.gather(*calls, return_exceptions=True)
        release.join()
    else:
        started = threading.Event()
        watcher = lab.when_waiting(node, started.set)
        first = threading.Thread(target=branch.connection.execute, args=(slow,))
        first.start()
        watcher.join()
        with pytest.raises(GuardError) as caught:
            branch.connection.execute("SELECT 1")
        errors.append(caught.value)
        outside.execute("SELECT pg_advisory_unlock(1)")
        first.join()
    (error,) = [error for error in errors if error is not None]
    assert "two operations at once" in str(error)
    assert branch.misuse is error
    await branch.roll_back(prepared=False)


async def enter(manager: Any) -> Any:
    """Enter a context manager of either kind."""
    return await manager.__aenter__() if hasattr(manager, "__aenter__") else manager.__enter__()


async def consume(rows: Any) -> list[Any]:
    """All of an iterator of either kind."""
    return [row async for row in rows] if hasattr(rows, "__aiter__") else list(rows)


QUERIES = (b"COMMIT", sql.SQL("COMMIT"), sql.SQL("{}").format(sql.SQL("COMMIT")))


@pytest.mark.parametrize("way", ["execute", "executemany", "stream", "copy", "named", "client"])
@scenario
async def test_every_way_through_psycopg_is_guarded(way: str, psycopg_lab: Lab) -> None:
    lab = psycopg_lab
    node = await lab.node()
    for query in QUERIES:
        _, branch = await lab.branch(node)
        if way == "client":
            branch.connection.cursor_factory = psycopg.AsyncClientCursor if lab.is_async else psycopg.ClientCursor
        cursor = branch.connection.cursor(*(["named"] if way == "named" else []), row_factory=psycopg.rows.dict_row)
        with pytest.raises(GuardError, match="COMMIT"):
            await _call(cursor, way, query)
        assert branch.misuse is not None
        await branch.roll_back(prepared=False)


async def _call(cursor: Any, way: str, query: Any) -> None:
    match way:
        case "executemany":
            await settle(cursor.executemany(query, [()]))
        case "stream":
            await consume(cursor.stream(query))
        case "copy":
            await enter(cursor.copy(query))
        case _:
            await settle(cursor.execute(query))


@scenario
async def test_a_cursor_made_from_its_class_is_refused(psycopg_lab: Lab) -> None:
    lab = psycopg_lab
    node = await lab.node()
    _, branch = await lab.branch(node)
    kind: Any = psycopg.AsyncClientCursor if lab.is_async else psycopg.ClientCursor
    with pytest.raises(GuardError, match="cursor"):
        await settle(kind(branch.connection).execute("SELECT 1"))
    await branch.roll_back(prepared=False)


@scenario
async def test_the_connection_as_a_context_and_its_settings_are_refused(psycopg_lab: Lab) -> None:
    lab = psycopg_lab
    node = await lab.node()
    for misuse in (enter, lambda connection: setattr(connection, "autocommit", False)):
        _, branch = await lab.branch(node)
        with pytest.raises(GuardError):
            await settle(misuse(branch.connection))
        assert branch.misuse is not None
        await branch.roll_back(prepared=False)


@scenario
async def test_leaked_cursors_are_dead(psycopg_lab: Lab) -> None:
    lab = psycopg_lab
    node = await lab.node()
    _, branch = await lab.branch(node)
    plain, named = branch.connection.cursor(), branch.connection.cursor("named")
    await settle(named.execute("SELECT generate_series(1, 9)"))
    branch.fence()
    await branch.roll_back(prepared=False)
    _, following = await lab.branch(node)
    for call in (
        lambda: plain.execute("INSERT INTO t VALUES (1)"),
        named.fetchone,
    ):
        with pytest.raises(GuardError, match="over"):
            await settle(call())
    await following.roll_back(prepared=False)


@scenario
async def test_cursors_streams_copies_and_pipelines_work(psycopg_lab: Lab) -> None:
    lab = psycopg_lab
    node = await lab.node()
    _, branch = await lab.branch(node)
    connection = branch.connection
    cursor = connection.cursor()
    await settle(cursor.executemany("INSERT INTO t VALUES (%s)", [(1,), (2,)]))
    assert [row async for row in _each(cursor.stream("SELECT k FROM t"))] == [(1,), (2,)]
    async for _ in _each(cursor.stream("SELECT k FROM t")):
        break
    named = connection.cursor("named", row_factory=psycopg.rows.scalar_row)
    await settle(named.execute(sql.SQL("SELECT k FROM {} ORDER BY k").format(sql.Identifier("t"))))
    assert await settle(named.fetchall()) == [1, 2]
    copying = cursor.copy("COPY t FROM STDIN")
    await settle((await enter(copying)).write_row((3,)))
    await _leave(copying)
    pipeline = connection.pipeline()
    await enter(pipeline)
    await settle(connection.execute("INSERT INTO t VALUES (4)"))
    await _leave(pipeline)
    # psycopg forgets its prepared statements at a DROP; ours must stay.
    await settle(connection.execute("DROP TABLE IF EXISTS nothing"))
    assert said(await branch.prepare()) == "yes"
    await branch.commit()
    assert lab.keys(node) == [1, 2, 3, 4]


@scenario
async def test_what_a_block_sets_on_the_connection_ends_with_it(psycopg_lab: Lab) -> None:
    lab = psycopg_lab
    node = await lab.node()
    _, branch = await lab.branch(node, home=True)
    branch.connection.row_factory = psycopg.rows.dict_row
    branch.connection.adapters.register_loader("int4", psycopg.types.string.TextLoader)
    assert said(await branch.decide({})) == "yes"
    _, branch = await lab.branch(node, home=True)
    assert await lab.rows(branch.connection, "SELECT 1") == [(1,)]
    await branch.roll_back(prepared=False)


async def _each(rows: Any) -> Any:
    if hasattr(rows, "__aiter__"):
        async for row in rows:
            yield row
    else:
        for row in rows:
            yield row


async def _leave(manager: Any) -> None:
    if hasattr(manager, "__aexit__"):
        await manager.__aexit__(None, None, None)
    else:
        manager.__exit__(None, None, None)


@scenario
async def test_what_ends_the_transaction_unseen_is_told_at_once_and_is_no_vote(lab: Lab) -> None:
    node = await lab.node()
    # Comments nest deeper here than the guard follows.
    hidden = "/*" * 9 + "*/" * 9 + " COMMIT"
    for home in (False, True):
        _, branch = await lab.branch(node, home=home)
        with pytest.raises(GuardError, match="over behind this statement") as caught:
            await lab.do(branch.connection, hidden)
        assert branch.misuse is caught.value
        answer = await (branch.decide({}) if home else branch.prepare())
        assert (said(answer), answer.reason) == ("no", "the transaction was over on node 'stock'")


@pytest.mark.parametrize("home", [False, True])
@scenario
async def test_a_role_that_a_block_took_does_its_own_work_and_none_of_ours(lab: Lab, home: bool) -> None:
    """What it deferred is done as that role; what is nodoubt's, of which it knows nothing, as who logged in."""
    node = await lab.node()
    role = f"r{home:d}{new_gid(0, bytes(10))[-8:]}{lab.driver.replace('-', '_')}"
    admin = lab.outside(node)
    admin.execute(f"CREATE ROLE {role}")
    try:
        admin.execute(
            "CREATE TABLE seen (who text);"
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN INSERT INTO seen VALUES (current_user); RETURN NULL; END';"
            "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();"
            f"GRANT ALL ON t, seen TO {role}"
        )
        branch_id, branch = await lab.branch(node, home=home)
        await lab.do(branch.connection, f"SET LOCAL ROLE {role}")
        await lab.do(branch.connection, "INSERT INTO t VALUES (1)")
        answer = await (branch.decide({}) if home else branch.prepare())
        assert (said(answer), answer.reason) == ("yes", "")
        if not home:
            query = "SELECT owner = session_user FROM pg_prepared_xacts WHERE gid = %s"
            assert admin.execute(query, (branch_id.text(),)).fetchall() == [(True,)]
            await branch.commit()
        assert admin.execute("SELECT who FROM seen").fetchall() == [(role,)]
    finally:
        admin.execute(f"DROP OWNED BY {role}")
        admin.execute(f"DROP ROLE {role}")


@scenario
async def test_a_statement_that_was_prepared_in_a_block_is_dead_behind_it(asyncpg_lab: Lab) -> None:
    node = await asyncpg_lab.node()
    _, branch = await asyncpg_lab.branch(node)
    insert = await branch.connection.prepare("INSERT INTO t VALUES (1)")
    assert branch.misuse is None
    await insert.fetch()
    await branch.roll_back(prepared=False)
    with pytest.raises(asyncpg.InterfaceError):
        await insert.fetch()
    _, later = await asyncpg_lab.branch(node)
    with pytest.raises(asyncpg.InterfaceError):
        await insert.fetch()
    await later.roll_back(prepared=False)
