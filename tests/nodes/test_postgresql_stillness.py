"""What PostgreSQL's glances rest on, each fact by psycopg alone.

Others may be at work on the same server at any moment, its own autovacuum too: a yes is waited for, and a no must come at once.
"""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest

from nodoubt.nodes.postgresql_stillness import PREPARE_STILLNESS, stillness
from tests.nodes.test_postgresql_facts import send
from tests.nodes.test_postgresql_isolation_facts import Connect, connect

__all__ = ["connect"]

BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
TOLD = stillness("SELECT 1")
GLANCE = f"{BEGIN};{TOLD.glance}"
BUSY, QUIET, UNMOVED, STILL = "SELECT 0", "SELECT 1", "SELECT 2", "SELECT 1"
PATIENCE_S = 30.0


@pytest.fixture
def ready(connect: Connect) -> Connect:
    """Opens a session that can glance."""

    def opened() -> psycopg.Connection[Any]:
        session = connect()
        send(session, PREPARE_STILLNESS)
        return session

    return opened


def until(session: psycopg.Connection[Any], *expected: str) -> str:
    """Glance again and again until it says so; the transaction is left open."""
    deadline = time.monotonic() + PATIENCE_S
    while (said := send(session, GLANCE)) not in expected:
        assert time.monotonic() < deadline, said
        send(session, "COMMIT")
    return said


def test_who_has_written_or_prepared_is_at_work(ready: Connect) -> None:
    reader, writer = ready(), ready()
    until(reader, QUIET, UNMOVED)
    send(reader, "COMMIT")
    for text in ("BEGIN;INSERT INTO t VALUES (1)", "PREPARE TRANSACTION 'g'"):
        send(writer, text)
        assert send(reader, GLANCE) == BUSY
        assert send(reader, TOLD.still) != STILL, "a note of a busy moment is none"
        send(reader, "COMMIT")
    send(writer, "COMMIT PREPARED 'g'")
    until(reader, QUIET)


@pytest.mark.parametrize(
    "text", ["INSERT INTO t VALUES (1)", "BEGIN;INSERT INTO t VALUES (1)", "SELECT pg_current_xact_id()"]
)
def test_who_comes_between_the_snapshot_and_the_note_is_seen(ready: Connect, text: str) -> None:
    """The snapshot does not show him, and the log may end behind him already: it is the next transaction id that tells."""
    reader, writer = ready(), ready()
    until(reader, QUIET, UNMOVED)
    send(reader, "COMMIT")
    send(reader, f"{BEGIN};SELECT 1")
    send(writer, text)
    assert send(reader, TOLD.glance.removeprefix("SELECT 1;")) == BUSY


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO t VALUES (1)",
        "BEGIN;PREPARE TRANSACTION 'g'",
        "BEGIN;INSERT INTO t VALUES (1);PREPARE TRANSACTION 'g'",
    ],
)
def test_who_prepares_or_commits_moves_the_end_of_the_log(ready: Connect, text: str) -> None:
    reader, writer = ready(), ready()
    until(reader, QUIET, UNMOVED)
    send(writer, text)
    assert send(reader, TOLD.still) != STILL
    send(reader, "COMMIT")
    assert send(reader, GLANCE) != UNMOVED


def test_a_commit_that_nobody_sees_yet_is_at_work(ready: Connect) -> None:
    """Without a forced write it is in the log and visible at once: the log moved before it was visible, so a note tells."""
    reader, writer = ready(), ready()
    until(reader, QUIET, UNMOVED)
    send(writer, "SET synchronous_commit = off;INSERT INTO t VALUES (1)")
    assert send(reader, TOLD.still) != STILL


def test_a_note_outlasts_the_commit_and_not_the_rollback(ready: Connect) -> None:
    reader, writer = ready(), ready()
    until(reader, UNMOVED)
    send(reader, "COMMIT")
    until(reader, UNMOVED)
    send(reader, "COMMIT")
    send(writer, "INSERT INTO t VALUES (1)")
    until(reader, QUIET)
    send(reader, "ROLLBACK")
    assert send(reader, GLANCE) != UNMOVED, "the note is older than what was committed"


def test_another_snapshot_is_taken_in_the_same_mode(ready: Connect) -> None:
    reader, writer = ready(), ready()
    send(reader, GLANCE)
    send(writer, "INSERT INTO t VALUES (1)")
    send(reader, TOLD.look_again)
    send(writer, "INSERT INTO t VALUES (2)")
    assert reader.execute("SELECT k FROM t").fetchall() == [(1,)]
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        send(reader, "INSERT INTO t VALUES (3)")
