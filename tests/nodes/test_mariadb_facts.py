"""What the MariaDB adapter believes of the server, asked of a real one: one test for each fact."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from nodoubt.testing.servers import MariaDBServer
from tests.conftest import DatabaseFactory
from tests.nodes.mariadb_side import TABLE, Outsider

NOTA, RMFAIL, RBROLLBACK, DUPLICATE, LOCK_WAIT, SAME_ID = 1397, 1399, 1402, 1062, 1205, 1440


class Xa(NamedTuple):
    """An XA id of one test."""

    id: str

    def prepare(self, session: Outsider, *work: str) -> None:
        for text in (f"XA START {self.id}", *work, f"XA END {self.id}", f"XA PREPARE {self.id}"):
            session(text)

    def is_listed(self, session: Outsider) -> bool:
        return self.id in {row[3] for row in session("XA RECOVER FORMAT='SQL'")}


@pytest.fixture
def xa() -> Xa:
    return Xa(f"'{secrets.token_hex(8)}','b',{0x6E64}")


@pytest.fixture
def connect(database: DatabaseFactory) -> Iterator[Callable[[], Outsider]]:
    url = database("mariadb")
    made: list[Outsider] = []

    def another() -> Outsider:
        made.append(Outsider(url))
        return made[-1]

    another()(TABLE)
    yield another
    for session in made:
        session.close()


def holding(session: Outsider, lock: str) -> int:
    """Take a lock; returns the number of the session."""
    ((number, taken),) = session(f"SELECT CONNECTION_ID(), GET_LOCK('{lock}', 0)")
    assert taken == 1
    return int(number)


def gone(session: Outsider, number: int, lock: str) -> bool:
    """Wait, by the server's own waiting, until the holder of a lock is over."""
    freed = session(f"SELECT GET_LOCK('{lock}', 10), RELEASE_LOCK('{lock}')") == ((1, 1),)
    # InnoDB lets go of the branch last: see test_mariadb_hidden.
    while session(f"SELECT 1 FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = {number}"):
        pass
    return freed


def test_prepared_branch_stays_attached_until_its_session_ends(connect: Callable[[], Outsider], xa: Xa) -> None:
    owner, other = connect(), connect()
    number = holding(owner, xa.id[1:17])
    xa.prepare(owner, "INSERT INTO item VALUES (1, 1)")
    assert xa.is_listed(other)
    assert other.error(f"XA COMMIT {xa.id}") == NOTA
    assert other.error(f"XA ROLLBACK {xa.id}") == NOTA
    assert xa.is_listed(other)
    owner.close()
    assert gone(other, number, xa.id[1:17])
    other(f"XA COMMIT {xa.id}")
    assert not xa.is_listed(other)
    assert other("SELECT * FROM item") == ((1, 1),)


def test_lock_names_its_session_and_is_freed_when_that_ends(connect: Callable[[], Outsider]) -> None:
    settler = connect()
    for _ in range(30):
        owner, lock = connect(), secrets.token_hex(8)
        number = holding(owner, lock)
        xa = Xa(f"'{lock}','b',1")
        xa.prepare(owner, "INSERT INTO item VALUES (1, 1)")
        assert settler(f"SELECT IS_USED_LOCK('{lock}')") == ((number,),)
        settler(f"KILL {number}")
        assert gone(settler, number, lock)
        assert settler.error(f"XA ROLLBACK {xa.id}") == 0


def test_owner_can_do_nothing_else_while_prepared(connect: Callable[[], Outsider], xa: Xa) -> None:
    owner = connect()
    xa.prepare(owner, "INSERT INTO item VALUES (1, 1)")
    assert owner.error("SELECT 1") == 0
    assert owner.error("SELECT * FROM item") == RMFAIL
    assert owner.error("INSERT INTO item VALUES (2, 2)") == RMFAIL
    owner(f"XA ROLLBACK {xa.id}")


def test_failed_statement_does_not_doom_the_branch(connect: Callable[[], Outsider], xa: Xa) -> None:
    owner, other = connect(), connect()
    owner("INSERT INTO item VALUES (1, 1), (2, 2)")
    other("BEGIN")
    other("UPDATE item SET v = 3 WHERE id = 2")
    owner("SET innodb_lock_wait_timeout = 0")
    owner(f"XA START {xa.id}")
    owner("INSERT INTO item VALUES (5, 5)")
    assert owner.error("INSERT INTO item VALUES (1, 9)") == DUPLICATE
    assert owner.error("UPDATE item SET v = 4 WHERE id = 2") == LOCK_WAIT
    owner(f"XA END {xa.id}")
    assert owner.error(f"XA PREPARE {xa.id}") == 0
    owner(f"XA COMMIT {xa.id}")
    assert owner("SELECT id FROM item ORDER BY id") == ((1,), (2,), (5,))


def test_savepoints_work_inside_xa(connect: Callable[[], Outsider], xa: Xa) -> None:
    owner = connect()
    xa.prepare(
        owner,
        "INSERT INTO item VALUES (1, 1)",
        "SAVEPOINT sp",
        "INSERT INTO item VALUES (2, 2)",
        "ROLLBACK TO sp",
        "RELEASE SAVEPOINT sp",
    )
    owner(f"XA COMMIT {xa.id}")
    assert owner("SELECT id FROM item") == ((1,),)


@pytest.mark.parametrize(
    "text",
    [
        "COMMIT",
        "ROLLBACK",
        "BEGIN",
        "CREATE TABLE other (a INT)",
        "TRUNCATE item",
        "LOCK TABLES item WRITE",
        "XA PREPARE {xa}",
    ],
)
def test_xa_refuses_what_would_end_it(connect: Callable[[], Outsider], xa: Xa, text: str) -> None:
    owner = connect()
    owner(f"XA START {xa.id}")
    assert owner.error(text.format(xa=xa.id)) == RMFAIL


def test_autocommit_is_not_refused_inside_xa(connect: Callable[[], Outsider], xa: Xa) -> None:
    """Which is why the guard refuses it: the session would keep it."""
    owner = connect()
    owner(f"XA START {xa.id}")
    assert owner.error("SET autocommit = 0") == 0


def test_same_id_twice(connect: Callable[[], Outsider], xa: Xa) -> None:
    owner, other = connect(), connect()
    owner(f"XA START {xa.id}")
    assert other.error(f"XA START {xa.id}") == SAME_ID


def test_one_phase_commit_needs_no_prepare(connect: Callable[[], Outsider], xa: Xa) -> None:
    owner = connect()
    for text in ("XA START {}", "INSERT INTO item VALUES (1, 1)", "XA END {}", "XA COMMIT {} ONE PHASE"):
        owner(text.format(xa.id))
    assert owner("SELECT * FROM item") == ((1, 1),)


def test_branch_without_a_write_vanishes_with_its_session(connect: Callable[[], Outsider], xa: Xa) -> None:
    """So every branch of ours writes its evidence."""
    owner, other = connect(), connect()
    number = holding(owner, xa.id[1:17])
    xa.prepare(owner, "SELECT * FROM item")
    owner.close()
    assert gone(other, number, xa.id[1:17])
    assert other.error(f"XA COMMIT {xa.id}") == RBROLLBACK


def test_data_definition_ends_a_read_only_transaction_but_not_in_a_read_only_session(
    connect: Callable[[], Outsider],
) -> None:
    session = connect()
    session("START TRANSACTION READ ONLY")
    assert session.error("CREATE TABLE other (a INT)") == 0
    session("SET SESSION TRANSACTION READ ONLY")
    session("START TRANSACTION")
    assert session.error("CREATE TABLE another (a INT)") == 1792
    session("COMMIT")
    assert session.error("INSERT INTO item VALUES (1, 1)") == 1792


def test_insert_waits_for_an_uncommitted_key(connect: Callable[[], Outsider]) -> None:
    committer, prober = connect(), connect()
    prober("SET SESSION innodb_lock_wait_timeout = 1")
    committer("BEGIN")
    committer("INSERT INTO item VALUES (1, 1)")
    probe = "INSERT INTO item VALUES (1, 0) ON DUPLICATE KEY UPDATE v = v + 1"
    assert prober.error(probe) == LOCK_WAIT
    committer("COMMIT")
    assert prober.error(probe) == 0
    assert prober("SELECT v FROM item") == ((2,),)


def test_recover_lists_the_branches_of_all_databases(
    connect: Callable[[], Outsider], database: DatabaseFactory, xa: Xa
) -> None:
    owner, elsewhere = connect(), Outsider(database("mariadb"))
    xa.prepare(owner, "INSERT INTO item VALUES (1, 1)")
    assert xa.is_listed(elsewhere)
    owner(f"XA ROLLBACK {xa.id}")
    elsewhere.close()


def test_prepared_branch_survives_a_kill_of_the_server(
    database: DatabaseFactory, mariadb: MariaDBServer, xa: Xa
) -> None:
    url = database("mariadb")
    owner = Outsider(url)
    owner(TABLE)
    xa.prepare(owner, "INSERT INTO item VALUES (1, 1)")
    mariadb.kill()
    mariadb.restart()
    owner.close()
    after = Outsider(url)
    assert xa.is_listed(after)
    after(f"XA COMMIT {xa.id}")
    assert after("SELECT * FROM item") == ((1, 1),)
    after.close()


def test_names_compare_without_case_unless_told(connect: Callable[[], Outsider]) -> None:
    assert connect()("SELECT 'a' = 'A', 'a' = 'A' COLLATE utf8mb4_bin") == ((1, 0),)
