"""How PostgreSQL really behaves: each fact that the adapter rests on, tried by psycopg alone.

When a new version of PostgreSQL breaks one of these, the adapter must change before anybody upgrades.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from nodoubt.testing.servers import PostgreSQLServer
from tests.conftest import DatabaseFactory

Connect = Callable[[], psycopg.Connection[Any]]


@pytest.fixture
def url(database: DatabaseFactory) -> str:
    url = database("postgresql")
    with psycopg.connect(url, autocommit=True) as setup:
        setup.execute("CREATE TABLE t (k int PRIMARY KEY)")
    return url


@pytest.fixture
def connect(url: str) -> Iterator[Connect]:
    """Call it for a new session in auto-commit mode; sessions and prepared transactions end with the test."""
    opened: list[psycopg.Connection[Any]] = []

    def connect() -> psycopg.Connection[Any]:
        opened.append(psycopg.connect(url, autocommit=True))
        return opened[-1]

    yield connect
    for session in opened:
        session.close()
    with psycopg.connect(url, autocommit=True) as cleaner:
        for (gid,) in cleaner.execute(
            "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        ).fetchall():
            send(cleaner, f"ROLLBACK PREPARED '{gid}'")


def send(session: psycopg.Connection[Any], sql: str) -> str:
    """Send one packet of statements; the tag of the last."""
    cursor = session.execute(sql.encode(), prepare=False)
    while cursor.nextset():
        pass
    return cursor.statusmessage or ""


def refusal(session: psycopg.Connection[Any], sql: str) -> str | None:
    """The SQLSTATE with which a packet is refused."""
    with pytest.raises(psycopg.Error) as caught:
        send(session, sql)
    return caught.value.sqlstate


def prepared(session: psycopg.Connection[Any]) -> list[str]:
    rows = session.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
    return [gid for (gid,) in rows]


def keys(session: psycopg.Connection[Any]) -> list[int]:
    return [key for (key,) in session.execute("SELECT k FROM t ORDER BY k")]


@pytest.mark.parametrize("end", ["PREPARE TRANSACTION 'g'", "COMMIT"])
def test_the_end_of_a_failed_transaction_succeeds_with_the_tag_rollback(connect: Connect, end: str) -> None:
    session = connect()
    send(session, "BEGIN; INSERT INTO t VALUES (1)")
    assert refusal(session, "SELECT 1/0") == "22012"
    assert send(session, end) == "ROLLBACK"
    assert prepared(session) == []
    assert keys(session) == []


def test_a_prepare_answers_with_its_own_tag(connect: Connect) -> None:
    session = connect()
    assert send(session, "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'g'") == "PREPARE TRANSACTION"
    assert prepared(session) == ["g"]
    assert send(session, "COMMIT PREPARED 'g'") == "COMMIT PREPARED"
    assert keys(session) == [1]


def test_a_second_prepare_of_a_gid_fails_and_has_rolled_back(connect: Connect) -> None:
    session = connect()
    send(session, "BEGIN; PREPARE TRANSACTION 'g'")
    send(session, "BEGIN; INSERT INTO t VALUES (1)")
    assert refusal(session, "PREPARE TRANSACTION 'g'") == "42710"
    assert session.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
    assert keys(session) == []


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TEMPORARY TABLE x (k int)",
        "LISTEN x",
        "NOTIFY x",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "SELECT pg_advisory_lock(7), pg_advisory_xact_lock(7)",
    ],
)
def test_what_cannot_be_prepared_has_rolled_back(connect: Connect, statement: str) -> None:
    session = connect()
    send(session, f"BEGIN; INSERT INTO t VALUES (1); {statement}")
    assert refusal(session, "PREPARE TRANSACTION 'g'") in ("0A000", "55000")
    assert session.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
    assert keys(session) == []


def test_without_slots_every_prepare_fails_and_has_rolled_back() -> None:
    with (
        PostgreSQLServer.start({"max_prepared_transactions": "0"}) as server,
        psycopg.connect(server.url, autocommit=True) as session,
    ):
        send(session, "BEGIN")
        assert refusal(session, "PREPARE TRANSACTION 'g'") == "55000"
        assert session.info.transaction_status is psycopg.pq.TransactionStatus.IDLE


def test_a_deferred_constraint_speaks_at_prepare_and_at_commit(connect: Connect) -> None:
    session = connect()
    send(session, "CREATE TABLE d (k int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    for end in ("PREPARE TRANSACTION 'g'", "COMMIT"):
        send(session, "BEGIN; INSERT INTO d VALUES (1), (1)")
        assert refusal(session, end) == "23505"
        assert session.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
    assert prepared(session) == []


def test_any_session_finishes_a_prepared_branch_whose_session_is_terminated(connect: Connect) -> None:
    owner, other = connect(), connect()
    send(owner, "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'g'")
    other.execute("SELECT pg_terminate_backend(%s, 5000)", (owner.info.backend_pid,))
    assert prepared(other) == ["g"]
    send(other, "COMMIT PREPARED 'g'")
    assert keys(other) == [1]


def test_a_prepared_branch_survives_kill_9_and_keeps_its_locks(connect: Connect, postgresql: PostgreSQLServer) -> None:
    session = connect()
    send(session, "INSERT INTO t VALUES (1), (2)")
    send(session, "BEGIN; DELETE FROM t WHERE k = 1; SELECT FROM t WHERE k = 2 FOR SHARE; PREPARE TRANSACTION 'g'")
    postgresql.kill()
    postgresql.restart()
    other = connect()
    assert prepared(other) == ["g"]
    for key in (1, 2):
        assert refusal(other, f"SELECT FROM t WHERE k = {key} FOR UPDATE NOWAIT") == "55P03"
    send(other, "COMMIT PREPARED 'g'")
    assert keys(other) == [2]


@pytest.mark.parametrize("word", ["COMMIT", "ROLLBACK"])
def test_finishing_what_is_not_there(connect: Connect, word: str) -> None:
    session = connect()
    assert refusal(session, f"{word} PREPARED 'nobody'") == "42704"
    send(session, "BEGIN; PREPARE TRANSACTION 'g'; BEGIN")
    assert refusal(session, f"{word} PREPARED 'g'") == "25001"
    send(session, "ROLLBACK")
    assert refusal(session, f"{word} PREPARED 'g'; SELECT 1") == "25001"
    assert prepared(session) == ["g"]


def test_a_branch_of_another_database_is_listed_and_refused(connect: Connect, postgresql: PostgreSQLServer) -> None:
    session = connect()
    send(session, "BEGIN; PREPARE TRANSACTION 'elsewhere'")
    with psycopg.connect(postgresql.url, autocommit=True) as other:
        listed = other.execute("SELECT database FROM pg_prepared_xacts WHERE gid = 'elsewhere'").fetchall()
        assert listed == [(session.info.dbname,)]
        assert refusal(other, "COMMIT PREPARED 'elsewhere'") == "0A000"


def test_another_role_is_refused(connect: Connect) -> None:
    session = connect()
    role = f"role_{session.info.backend_pid}"
    send(session, f"CREATE ROLE {role}")
    send(session, "BEGIN; PREPARE TRANSACTION 'g'")
    send(session, f"SET ROLE {role}")
    assert refusal(session, "COMMIT PREPARED 'g'") == "42501"
    send(session, f"RESET ROLE; DROP ROLE {role}")


def test_a_prepare_that_still_runs_is_not_found(connect: Connect) -> None:
    owner, blocker, other = connect(), connect(), connect()
    send(
        other,
        "CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END$$;"
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION wait_here()",
    )
    send(blocker, "SELECT pg_advisory_lock(1)")
    send(owner, "BEGIN; INSERT INTO t VALUES (1)")
    preparing = threading.Thread(target=send, args=(owner, "PREPARE TRANSACTION 'g'"))
    preparing.start()
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND pid = %s"
    while other.execute(waiting, (owner.info.backend_pid,)).fetchone() is None:
        pass
    assert refusal(other, "ROLLBACK PREPARED 'g'") == "42704"
    assert prepared(other) == []
    send(blocker, "SELECT pg_advisory_unlock(1)")
    preparing.join()
    assert prepared(other) == ["g"]


@pytest.mark.parametrize(("end", "tag"), [("COMMIT", "COMMIT"), ("PREPARE TRANSACTION 'g'", "PREPARE TRANSACTION")])
def test_a_row_and_the_end_travel_in_one_packet(connect: Connect, end: str, tag: str) -> None:
    session = connect()
    send(session, "BEGIN; INSERT INTO t VALUES (1)")
    assert send(session, f"INSERT INTO t VALUES (2); {end}") == tag


def test_the_first_error_stops_the_rest_of_a_packet(connect: Connect) -> None:
    session = connect()
    send(session, "INSERT INTO t VALUES (1)")
    send(session, "BEGIN; INSERT INTO t VALUES (2)")
    assert refusal(session, "INSERT INTO t VALUES (1); COMMIT") == "23505"
    assert session.info.transaction_status is psycopg.pq.TransactionStatus.INERROR
    send(session, "ROLLBACK")
    assert keys(session) == [1]


@pytest.fixture
def lazy_session() -> Iterator[psycopg.Connection[Any]]:
    """A session on a server that forces its log only when a commit asks for it."""
    with (
        PostgreSQLServer.start({"wal_writer_delay": "10s", "autovacuum": "off"}) as server,
        psycopg.connect(server.url, autocommit=True) as session,
    ):
        send(session, "CREATE TABLE t (k int); SET synchronous_commit = off")
        yield session


@pytest.mark.parametrize(
    ("begin", "end", "forced"),
    [
        ("BEGIN", "COMMIT", False),
        ("BEGIN", "SET LOCAL synchronous_commit = on; COMMIT", True),
        ("BEGIN", "PREPARE TRANSACTION 'g'", True),
        ("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'g'", "COMMIT PREPARED 'g'", True),
        ("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'g'", "ROLLBACK PREPARED 'g'", True),
    ],
)
def test_what_forces_the_log(lazy_session: psycopg.Connection[Any], begin: str, end: str, forced: bool) -> None:
    session = lazy_session
    send(session, begin)
    if "PREPARED" not in end:
        send(session, "INSERT INTO t VALUES (2)")
    before = session.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
    send(session, end)
    assert before is not None
    row = session.execute("SELECT pg_current_wal_flush_lsn() > %s::pg_lsn", before).fetchone()
    assert row == (forced,)


@pytest.mark.parametrize("conflict", ["", "ON CONFLICT DO NOTHING"])
def test_an_insert_waits_for_whoever_holds_the_key(connect: Connect, conflict: str) -> None:
    holder, other = connect(), connect()
    send(holder, "BEGIN; INSERT INTO t VALUES (1)")
    assert refusal(other, f"SET lock_timeout = 50; INSERT INTO t VALUES (1) {conflict}") == "55P03"
    send(holder, "PREPARE TRANSACTION 'g'")
    assert refusal(other, f"SET lock_timeout = 50; INSERT INTO t VALUES (1) {conflict}") == "55P03"
    send(holder, "COMMIT PREPARED 'g'")
    if conflict:
        assert send(other, f"INSERT INTO t VALUES (1) {conflict}") == "INSERT 0 0"
    else:
        assert refusal(other, "INSERT INTO t VALUES (1)") == "23505"


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_a_late_insert_against_a_newer_row_is_a_unique_violation(connect: Connect, level: str) -> None:
    late, other = connect(), connect()
    send(late, f"BEGIN ISOLATION LEVEL {level}; SELECT FROM t")
    send(other, "INSERT INTO t VALUES (1)")
    assert refusal(late, "INSERT INTO t VALUES (1)") == "23505"


def test_the_server_ends_a_session_that_idles_in_a_transaction(connect: Connect) -> None:
    zombie, other = connect(), connect()
    send(zombie, "SET idle_in_transaction_session_timeout = 20; BEGIN; INSERT INTO t VALUES (1)")
    alive = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
    while other.execute(alive, (zombie.info.backend_pid,)).fetchone() is not None:
        pass
    with pytest.raises(psycopg.Error) as caught:
        send(zombie, "COMMIT")
    # An answer with a code, and yet the line is gone: the severity tells.
    assert (caught.value.sqlstate, caught.value.diag.severity_nonlocalized) == ("25P03", "FATAL")
    assert keys(other) == []


def test_prepared_statements_outlive_a_rollback(connect: Connect) -> None:
    session = connect()
    send(session, "BEGIN; PREPARE mine AS SELECT 1; ROLLBACK")
    assert send(session, "EXECUTE mine") == "SELECT 1"
