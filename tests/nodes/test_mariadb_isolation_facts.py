"""What levels of isolation and the gate believe of MariaDB, asked of a real server: one test for each fact."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from nodoubt.nodes.contract import Isolation, Terms
from nodoubt.nodes.mariadb import MariaDB
from nodoubt.nodes.mariadb_isolation import forced
from tests.nodes.mariadb_side import Outsider
from tests.nodes.test_mariadb_facts import DUPLICATE, LOCK_WAIT, RMFAIL, Xa, connect, xa

__all__ = ["connect", "xa"]

IN_PROGRESS, CHANGED, SERVER_GONE = 1568, 1020, (2006, 2013, 4031)
Connect = Callable[[], Outsider]


@pytest.fixture
def pair(connect: Connect) -> tuple[Outsider, Outsider]:
    """Two sessions and two rows; the second one waits for no row."""
    one, other = connect(), connect()
    one("INSERT INTO item VALUES (1, 1), (2, 2)")
    other("SET SESSION innodb_lock_wait_timeout = 0, lock_wait_timeout = 1")
    return one, other


def begin(session: Outsider, xa: Xa, *before: str) -> None:
    for text in (*before, f"XA START {xa.id}"):
        session(text)


def end(session: Outsider, xa: Xa, last: str = "ROLLBACK") -> None:
    session.error(f"XA END {xa.id}")
    session(f"XA {last} {xa.id}")


def behind(waiter: Outsider, sql: str, observer: Outsider) -> threading.Thread:
    """Run a statement that has to wait for a table; return when it does."""
    ((number,),) = waiter("SELECT CONNECTION_ID()")
    thread = threading.Thread(target=waiter, args=(sql,))
    thread.start()
    while not observer(f"SELECT 1 FROM information_schema.processlist WHERE id = {number} AND state LIKE 'Waiting%'"):
        pass
    return thread


SERIALIZABLE = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"


def test_a_level_is_that_of_one_branch(pair: tuple[Outsider, Outsider], xa: Xa) -> None:
    one, other = pair
    begin(one, xa, SERIALIZABLE)
    one("SELECT * FROM item WHERE id = 1")
    assert other.error("UPDATE item SET v = 3 WHERE id = 1") == LOCK_WAIT
    end(one, xa)
    begin(one, xa)
    one("SELECT * FROM item WHERE id = 1")
    assert other.error("UPDATE item SET v = 3 WHERE id = 1") == 0
    end(one, xa)


def test_a_level_outlives_the_word_that_the_session_only_reads(pair: tuple[Outsider, Outsider]) -> None:
    one, other = pair
    for text in (SERIALIZABLE, "SET SESSION TRANSACTION READ ONLY", "START TRANSACTION"):
        one(text)
    one("SELECT * FROM item WHERE id = 1")
    assert other.error("UPDATE item SET v = 3 WHERE id = 1") == LOCK_WAIT
    one("COMMIT")


def test_prepare_keeps_the_locks_of_reads(pair: tuple[Outsider, Outsider], xa: Xa) -> None:
    """Ranges included."""
    one, other = pair
    begin(one, xa, SERIALIZABLE)
    one("SELECT * FROM item WHERE id > 1")
    end(one, xa, "PREPARE")
    assert other.error("INSERT INTO item VALUES (3, 3)") == LOCK_WAIT
    assert other.error("UPDATE item SET v = 3 WHERE id = 2") == LOCK_WAIT
    assert other.error("UPDATE item SET v = 3 WHERE id = 1") == 0
    one(f"XA COMMIT {xa.id}")
    assert other.error("INSERT INTO item VALUES (3, 3)") == 0


def test_nobody_changes_the_level_of_an_open_branch(pair: tuple[Outsider, Outsider], xa: Xa) -> None:
    one, other = pair
    begin(one, xa, SERIALIZABLE)
    assert one.error("SET TRANSACTION ISOLATION LEVEL READ COMMITTED") == IN_PROGRESS
    assert one.error("SET @@tx_isolation = 'READ-COMMITTED'") == IN_PROGRESS
    assert one.error("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED") == 0
    one("SELECT * FROM item WHERE id = 1")
    assert other.error("UPDATE item SET v = 3 WHERE id = 1") == LOCK_WAIT
    end(one, xa)


SNAPSHOT = ("SET SESSION innodb_snapshot_isolation = ON", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
FIRST_READ = "SELECT 1 FROM item WHERE id = -1"


def test_a_read_of_nothing_takes_the_snapshot(pair: tuple[Outsider, Outsider], xa: Xa) -> None:
    one, other = pair
    begin(one, xa, *SNAPSHOT)
    one(FIRST_READ)
    other("INSERT INTO item VALUES (3, 3)")
    assert one("SELECT id FROM item ORDER BY id") == ((1,), (2,))
    end(one, xa)


@pytest.mark.parametrize(
    ("change", "write"),
    [
        ("UPDATE item SET v = 3 WHERE id = 1", "UPDATE item SET v = v + 1 WHERE id = 1"),
        ("UPDATE item SET v = 3 WHERE id = 1", "SELECT v FROM item WHERE id = 1 FOR UPDATE"),
        ("DELETE FROM item WHERE id = 1", "UPDATE item SET v = v + 1 WHERE id = 1"),
        ("INSERT INTO item VALUES (3, 3)", "UPDATE item SET v = v + 1 WHERE id > 2"),
    ],
)
def test_a_snapshot_overwrites_nothing_that_it_does_not_show(
    pair: tuple[Outsider, Outsider], xa: Xa, change: str, write: str
) -> None:
    one, other = pair
    begin(one, xa, *SNAPSHOT)
    one(FIRST_READ)
    other(change)
    assert one.error(write) == CHANGED
    assert one.error(f"XA END {xa.id}") in (0, RMFAIL)
    one(f"XA ROLLBACK {xa.id}")


def test_without_the_setting_it_would_overwrite(pair: tuple[Outsider, Outsider], xa: Xa) -> None:
    """Also when it is taken away in the middle: the guard refuses that."""
    one, other = pair
    begin(one, xa, *SNAPSHOT)
    one(FIRST_READ)
    other("UPDATE item SET v = 3 WHERE id = 1")
    one("SET SESSION innodb_snapshot_isolation = OFF")
    assert one.error("UPDATE item SET v = v + 1 WHERE id = 1") == 0
    end(one, xa)


def test_a_setting_is_kept_in_a_variable_and_set_back(pair: tuple[Outsider, Outsider]) -> None:
    one, _ = pair
    one("SET SESSION innodb_lock_wait_timeout = 9")
    one("SET @kept = @@innodb_lock_wait_timeout")
    one("SET SESSION innodb_lock_wait_timeout = 3, lock_wait_timeout = 4")
    assert one("SELECT @@innodb_lock_wait_timeout, @@lock_wait_timeout") == ((3, 4),)
    one("SET SESSION innodb_lock_wait_timeout = @kept")
    assert one("SELECT @@innodb_lock_wait_timeout") == ((9,),)


GATE = "(SELECT v FROM item WHERE 0)"


def test_a_table_that_is_only_named_is_held_until_the_commit(pair: tuple[Outsider, Outsider], xa: Xa) -> None:
    one, other = pair
    other("CREATE TABLE decision (id INT PRIMARY KEY, v INT) ENGINE=InnoDB")
    begin(one, xa)
    one(f"INSERT INTO decision VALUES (1, IFNULL({GATE}, 7))")
    assert other.error("LOCK TABLES item WRITE") == LOCK_WAIT
    assert other("SELECT id FROM item ORDER BY id") == ((1,), (2,))
    one(f"XA END {xa.id}")
    one(f"XA COMMIT {xa.id} ONE PHASE")
    other("LOCK TABLES item WRITE, decision READ")
    assert other("SELECT v FROM decision") == ((7,),)
    assert one.error("SET STATEMENT lock_wait_timeout = 1 FOR INSERT INTO decision VALUES (2, 2)") == LOCK_WAIT
    other("UNLOCK TABLES")
    one("INSERT INTO decision VALUES (2, 2)")
    assert one.error("INSERT INTO decision VALUES (2, 2)") == DUPLICATE


def test_a_reader_of_a_locked_table_waits_behind_writers_that_wait(connect: Connect, xa: Xa) -> None:
    """So LOCK TABLES READ is shared only where nobody waits to write, and writers that come later overtake it."""
    first, second, writer, observer = connect(), connect(), connect(), connect()
    second("SET SESSION lock_wait_timeout = 1")
    first("LOCK TABLES item READ")
    second("LOCK TABLES item READ")
    second("UNLOCK TABLES")
    waiting = behind(writer, "INSERT INTO item VALUES (1, 1)", observer)
    assert second.error("LOCK TABLES item READ") == LOCK_WAIT
    first("UNLOCK TABLES")
    waiting.join()
    begin(first, xa)
    first("INSERT INTO item VALUES (2, 2)")
    second("SET SESSION lock_wait_timeout = 5")
    waiting = behind(second, "LOCK TABLES item READ", observer)
    writer("INSERT INTO item VALUES (3, 3)")
    end(first, xa)
    waiting.join()


def test_who_locks_to_write_comes_before_those_who_come_later(connect: Connect, xa: Xa) -> None:
    first, opener, late, observer = connect(), connect(), connect(), connect()
    begin(first, xa)
    first(FIRST_READ)
    waiting = behind(opener, "LOCK TABLES item WRITE", observer)
    late("SET SESSION lock_wait_timeout = 1")
    assert late.error(FIRST_READ) == LOCK_WAIT
    end(first, xa)
    waiting.join()
    opener("UNLOCK TABLES")


def test_an_opener_that_idles_is_ended_and_told_so(connect: Connect) -> None:
    opener, other = connect(), connect()
    opener("SET SESSION wait_timeout = 1")
    opener("SELECT GET_LOCK('gate', 0)")
    opener("LOCK TABLES item WRITE")
    assert other("SELECT GET_LOCK('gate', 10)") == ((1,),)
    other("INSERT INTO item VALUES (1, 1)")
    assert opener.error("UNLOCK TABLES") in SERVER_GONE


def test_a_transaction_that_leaves_nothing_behind_forces_all_before_it(pair: tuple[Outsider, Outsider]) -> None:
    """Nothing else would force the log so soon: the server does it by itself once in a second."""
    one, other = pair
    other("CREATE TABLE nodoubt_branch (gid CHAR(26), branch INT NOT NULL, PRIMARY KEY (gid, branch))")
    other("SET GLOBAL innodb_flush_log_at_trx_commit = 0")
    try:
        other("UPDATE item SET v = 7 WHERE id = 1")
    finally:
        other("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
    written = lsn(other, "current")
    for text in forced("", "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;").split(";"):
        one(text)
    assert lsn(other, "flushed") > written
    assert other("SELECT * FROM nodoubt_branch") == ()


def lsn(session: Outsider, which: str) -> int:
    """How far the log goes: all of it, or what is on the disk."""
    ((_, found),) = session(f"SHOW GLOBAL STATUS LIKE 'Innodb_lsn_{which}'")
    return int(found)


@pytest.mark.parametrize("level", Isolation)
def test_who_must_not_lose_what_it_read_ends_with_a_forced_write(level: Isolation) -> None:
    dialect = MariaDB()
    dialect._forced = forced("", "")
    assert (dialect._forced in dialect.release(Terms(isolation=level))) == (level is Isolation.SERIALIZABLE)
    assert dialect.reopen_gate().endswith(dialect._forced)
