"""How PostgreSQL really behaves: what levels of isolation and the gate rest on, tried by psycopg alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from nodoubt.testing.servers import PostgreSQLServer
from tests.conftest import DatabaseFactory
from tests.nodes.test_postgresql_facts import keys, prepared, refusal, send

Connect = Callable[[], psycopg.Connection[Any]]

SHARE = "BEGIN;SET LOCAL lock_timeout = 50;LOCK TABLE t IN SHARE MODE"


@pytest.fixture
def connect(database: DatabaseFactory) -> Iterator[Connect]:
    url = database("postgresql")
    opened: list[psycopg.Connection[Any]] = []

    def connect() -> psycopg.Connection[Any]:
        opened.append(psycopg.connect(url, autocommit=True))
        return opened[-1]

    send(connect(), "CREATE TABLE t (k int PRIMARY KEY)")
    yield connect
    for session in opened:
        session.close()
    with psycopg.connect(url, autocommit=True) as cleaner:
        if prepared(cleaner):
            send(cleaner, "ROLLBACK PREPARED 'g'")


def behind(waiter: psycopg.Connection[Any], sql: str, observer: psycopg.Connection[Any]) -> threading.Thread:
    """Send a packet that has to wait for a lock; return when it does."""
    thread = threading.Thread(target=send, args=(waiter, sql))
    thread.start()
    waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND pid = %s"
    while observer.execute(waits, (waiter.info.backend_pid,)).fetchone() is None:
        pass
    return thread


def test_a_table_is_shared_by_openers_and_waits_for_a_writer(connect: Connect) -> None:
    writer, first, second, observer = connect(), connect(), connect(), connect()
    send(writer, "BEGIN;LOCK TABLE t IN ROW EXCLUSIVE MODE")
    assert refusal(first, SHARE) == "55P03"
    send(first, "ROLLBACK")
    send(writer, "COMMIT")
    send(first, SHARE)
    send(second, SHARE)
    waiting = behind(writer, "BEGIN;LOCK TABLE t IN ROW EXCLUSIVE MODE;INSERT INTO t VALUES (1);COMMIT", observer)
    send(first, "COMMIT")
    assert keys(observer) == []
    send(second, "COMMIT")
    waiting.join()
    assert keys(observer) == [1]


def test_an_opener_waits_behind_a_writer_that_waits(connect: Connect) -> None:
    """So two openers could wait for each other over two servers, unless all close their gates in one order."""
    writer, first, second, observer = connect(), connect(), connect(), connect()
    send(first, SHARE)
    waiting = behind(writer, "INSERT INTO t VALUES (1)", observer)
    assert refusal(second, SHARE) == "55P03"
    send(first, "COMMIT")
    waiting.join()


def test_an_opener_that_idles_is_ended_and_told_so(connect: Connect) -> None:
    opener, writer = connect(), connect()
    send(opener, f"BEGIN;SET LOCAL idle_in_transaction_session_timeout = 50;{SHARE.removeprefix('BEGIN;')}")
    send(writer, "INSERT INTO t VALUES (1)")
    with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
        send(opener, "COMMIT")


def test_what_was_committed_under_the_lock_is_seen_when_it_is_got(connect: Connect) -> None:
    writer, opener, observer = connect(), connect(), connect()
    send(writer, "BEGIN;LOCK TABLE t IN ROW EXCLUSIVE MODE;INSERT INTO t VALUES (1)")
    waiting = behind(opener, "BEGIN;LOCK TABLE t IN SHARE MODE", observer)
    send(writer, "COMMIT")
    waiting.join()
    assert keys(observer) == [1]


def test_the_first_query_takes_the_snapshot_and_settings_do_not(connect: Connect) -> None:
    early, late, writer = connect(), connect(), connect()
    send(early, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;SET LOCAL lock_timeout = 50;SELECT 1")
    send(late, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;SET LOCAL lock_timeout = 50")
    send(writer, "INSERT INTO t VALUES (1)")
    assert (keys(early), keys(late)) == ([], [1])


@pytest.mark.parametrize(
    "change",
    [
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET TRANSACTION READ WRITE",
        "SET LOCAL transaction_isolation = 'read committed'",
        "SELECT set_config('transaction_isolation', 'read committed', true)",
    ],
)
def test_nobody_changes_the_level_after_the_first_query(connect: Connect, change: str) -> None:
    session = connect()
    send(session, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;SELECT 1")
    assert refusal(session, change) == "25001"


#: What PostgreSQL 15 and 18 call a snapshot that is not there any more.
GONE = ("22023", "42704")


def test_a_snapshot_is_shared_while_its_transaction_is_open(connect: Connect) -> None:
    first, second, writer = connect(), connect(), connect()
    send(first, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;SELECT 1")
    row = first.execute("SELECT pg_export_snapshot()").fetchone()
    assert row is not None
    send(writer, "INSERT INTO t VALUES (1)")
    opening = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;SET TRANSACTION SNAPSHOT '{row[0]}'"
    send(second, opening)
    assert keys(second) == []
    send(second, "COMMIT")
    send(first, "COMMIT")
    assert refusal(second, opening) in GONE


def test_who_exported_a_snapshot_cannot_prepare(connect: Connect) -> None:
    session = connect()
    send(session, "BEGIN;SELECT pg_export_snapshot()")
    assert refusal(session, "PREPARE TRANSACTION 'g'") == "0A000"


def test_a_snapshot_overwrites_nothing_that_it_does_not_show(connect: Connect) -> None:
    late, other = connect(), connect()
    send(other, "INSERT INTO t VALUES (1)")
    send(late, "BEGIN ISOLATION LEVEL REPEATABLE READ;SELECT 1")
    send(other, "BEGIN;DELETE FROM t;PREPARE TRANSACTION 'g';BEGIN;COMMIT")
    send(other, "COMMIT PREPARED 'g'")
    assert keys(late) == [1]
    assert refusal(late, "DELETE FROM t") == "40001"


def test_advisory_locks_stay_through_prepare_and_a_crash(connect: Connect, postgresql: PostgreSQLServer) -> None:
    """Taken in a transaction that only reads, too."""
    owner = connect()
    send(owner, "BEGIN READ ONLY;SELECT pg_advisory_xact_lock_shared(7);SELECT pg_advisory_xact_lock(8)")
    send(owner, "PREPARE TRANSACTION 'g'")
    postgresql.kill()
    postgresql.restart()
    other = connect()
    for taken in ("pg_advisory_xact_lock(7)", "pg_advisory_xact_lock_shared(8)"):
        assert refusal(other, f"BEGIN;SET LOCAL lock_timeout = 50;SELECT {taken}") == "55P03"
        send(other, "ROLLBACK")
    send(other, "SELECT pg_advisory_xact_lock_shared(7)")
    send(other, "COMMIT PREPARED 'g'")
    send(other, "SELECT pg_advisory_xact_lock(7), pg_advisory_xact_lock(8)")


@pytest.mark.parametrize(("privilege", "passes", "closes"), [("SELECT", False, False), ("UPDATE", True, True)])
def test_the_gate_takes_the_privilege_to_update(connect: Connect, privilege: str, passes: bool, closes: bool) -> None:
    owner, session = connect(), connect()
    role = f"role_{session.info.backend_pid}"
    send(owner, f"CREATE ROLE {role};GRANT {privilege} ON t TO {role}")
    send(session, f"SET ROLE {role}")
    for mode, may in (("ROW EXCLUSIVE", passes), ("SHARE", closes)):
        text = f"BEGIN;LOCK TABLE t IN {mode} MODE"
        if may:
            send(session, text)
        else:
            assert refusal(session, text) == "42501"
        send(session, "ROLLBACK")
    send(owner, f"REVOKE ALL ON t FROM {role};DROP ROLE {role}")
