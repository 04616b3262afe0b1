"""What a block may do to a SQLite branch, and what makes its vote no."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import apsw
import pytest

from nodoubt.errors import GuardError
from nodoubt.nodes.contract import Said
from nodoubt.nodes.sqlite import SQLiteNode
from nodoubt.nodes.sqlite_branch import SQLiteBranch
from tests.nodes.sqlite_lab import SCHEMA, Lab


@pytest.fixture
def node(lab: Lab) -> SQLiteNode:
    return lab.node(schema=SCHEMA)


@pytest.fixture
def home(lab: Lab, node: SQLiteNode) -> Iterator[SQLiteBranch]:
    branch = lab.begin(node, lab.id(0), home=True)
    yield branch
    lab.run(branch.roll_back(prepared=False))


ENDS = ["BEGIN", "begin immediate", "COMMIT", "END", "ROLLBACK", "/* x */ Commit -- y", "SELECT 1; COMMIT"]
ALWAYS_REFUSED = [
    *ENDS,
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "PRAGMA synchronous = OFF",
    "PRAGMA main.synchronous(0)",
    "PRAGMA journal_mode = delete",
    "PRAGMA writable_schema = ON",
    "PRAGMA locking_mode = exclusive",
    "PRAGMA user_version = 3",
    "PRAGMA wal_checkpoint",
    "PRAGMA optimize",
    "INSERT INTO nodoubt_branch VALUES ('x', 1)",
    "DELETE FROM NODOUBT_decision",
    "UPDATE nodoubt_node SET name = 'x'",
    "DROP TABLE nodoubt_decision",
    "ALTER TABLE nodoubt_branch ADD COLUMN x",
    "CREATE TEMP TABLE nodoubt_branch (gid, branch)",
    "CREATE TEMP VIEW nodoubt_decision AS SELECT 1",
    "CREATE TRIGGER z BEFORE INSERT ON nodoubt_decision BEGIN SELECT RAISE(IGNORE); END",
    "CREATE TEMP TRIGGER z BEFORE INSERT ON main.nodoubt_branch BEGIN SELECT RAISE(IGNORE); END",
    "CREATE INDEX z ON nodoubt_decision (reason)",
]
NOT_CARRIED = [
    "CREATE TABLE new (id integer PRIMARY KEY)",
    "CREATE TABLE new AS SELECT 1",
    "CREATE VIEW new AS SELECT 1",
    "CREATE INDEX new ON item (amount)",
    "CREATE TRIGGER new AFTER DELETE ON item BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE new USING fts5(x)",
    "DROP TABLE item",
    "DROP VIEW seen",
    "DROP TRIGGER item_log",
    "ALTER TABLE item ADD COLUMN x",
    "ALTER TABLE item RENAME TO thing",
    "ANALYZE",
    "REINDEX",
    "INSERT INTO bare VALUES (1)",
    "UPDATE bare SET x = 2",
    "DELETE FROM bare",
    "INSERT INTO words VALUES ('hello')",
    "UPDATE sqlite_sequence SET seq = 1",
]


@pytest.mark.parametrize("sql", ALWAYS_REFUSED)
def test_refused_in_every_branch(branch: SQLiteBranch, sql: str) -> None:
    with pytest.raises(GuardError, match="on node 'shop'"):
        branch.connection.execute(sql).fetchall()
    assert isinstance(branch.misuse, GuardError)


@pytest.mark.parametrize("sql", ALWAYS_REFUSED)
def test_refused_at_home(home: SQLiteBranch, sql: str) -> None:
    with pytest.raises(GuardError, match="on node 'shop'"):
        home.connection.execute(sql).fetchall()


@pytest.mark.parametrize("sql", NOT_CARRIED)
def test_refused_where_a_changeset_must_carry_it(branch: SQLiteBranch, sql: str) -> None:
    with pytest.raises(GuardError) as caught:
        branch.connection.execute(sql).fetchall()
    assert sql in str(caught.value), "the message names the statement"
    assert "home" in str(caught.value), "and a way out"


@pytest.mark.parametrize("sql", [sql for sql in NOT_CARRIED if "sqlite_sequence" not in sql])
def test_home_may(home: SQLiteBranch, sql: str) -> None:
    home.connection.execute(sql).fetchall()
    assert home.misuse is None


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM bare",
        "PRAGMA table_info(item)",
        "PRAGMA user_version",
        "PRAGMA defer_foreign_keys = ON",
        "CREATE TEMP TABLE scratch (x); INSERT INTO scratch VALUES (1); DROP TABLE scratch",
        "CREATE TEMP VIEW v AS SELECT 1",
        "EXPLAIN QUERY PLAN SELECT 1",
        "SAVEPOINT a; UPDATE item SET amount = 1; ROLLBACK TO a; RELEASE a",
        "INSERT INTO seen VALUES (9, 9)",
        "WITH x AS (SELECT 5 AS id) INSERT INTO item SELECT id, 1, '' FROM x RETURNING *",
        "SELECT 'COMMIT; BEGIN'",
    ],
)
def test_allowed(lab: Lab, branch: SQLiteBranch, sql: str) -> None:
    branch.connection.execute(sql).fetchall()
    assert branch.misuse is None
    assert branch._prepare().said is Said.YES


@pytest.mark.parametrize(
    "name",
    [
        "close",
        "set_authorizer",
        "authorizer",
        "set_exec_trace",
        "exec_trace",
        "config",
        "deserialize",
        "cursor_factory",
    ],
)
def test_what_would_blind_the_guard_is_refused(branch: SQLiteBranch, name: str) -> None:
    with pytest.raises(GuardError, match=name):
        getattr(branch.connection, name)
    with pytest.raises(GuardError, match=name):
        setattr(branch.connection, name, None)


def test_other_ways_around_are_refused(branch: SQLiteBranch) -> None:
    connection = branch.connection
    with pytest.raises(GuardError, match="blob_open"):
        connection.blob_open("main", "item", "note", 1, True)
    with pytest.raises(GuardError, match="pragma"):
        connection.pragma("synchronous", 0)
    cursor = connection.cursor()
    with pytest.raises(GuardError, match="exec_trace"):
        cursor.exec_trace = None
    assert cursor.connection is connection
    with connection as inner:
        assert inner is connection
    assert isinstance(connection, apsw.Connection)


def test_a_second_branch_sees_the_rules_anew(lab: Lab, node: SQLiteNode) -> None:
    """A statement that was compiled for home must be asked about again."""
    for home in (True, False, True):
        branch = lab.begin(node, home=home)
        if home:
            branch.connection.execute("INSERT INTO bare VALUES (1)")
        else:
            with pytest.raises(GuardError):
                branch.connection.execute("INSERT INTO bare VALUES (1)")
        lab.run(branch.roll_back(prepared=False))


# Failures that SQLite would commit


def test_a_failed_statement_makes_the_vote_no(branch: SQLiteBranch) -> None:
    with pytest.raises(apsw.ConstraintError):
        branch.connection.execute("UPDATE item SET amount = -1")
    answer = branch._prepare()
    assert answer.said is Said.NO
    assert "CHECK" in answer.reason
    assert isinstance(answer.error, apsw.ConstraintError)


def test_at_home_too(home: SQLiteBranch) -> None:
    with pytest.raises(apsw.SQLError):
        home.connection.execute("no sql")
    assert home._decide({}).said is Said.NO


def test_an_error_while_rows_are_fetched_is_a_failure(branch: SQLiteBranch) -> None:
    cursor = branch.connection.execute("SELECT abs(x) FROM (SELECT 1 AS x UNION ALL SELECT -9223372036854775808)")
    with pytest.raises(apsw.SQLError):
        for _ in cursor:
            pass
    assert branch._prepare().said is Said.NO


def test_a_savepoint_undoes_a_failure(branch: SQLiteBranch) -> None:
    connection = branch.connection
    with pytest.raises(apsw.ConstraintError), connection:
        connection.execute("UPDATE item SET amount = -1")
    connection.execute("SAVEPOINT 'a'")
    with pytest.raises(apsw.ConstraintError):
        connection.execute("UPDATE item SET amount = -1")
    connection.execute('ROLLBACK TRANSACTION TO SAVEPOINT "A"')
    with connection:
        connection.execute("UPDATE item SET amount = 5 WHERE id = 1")
    assert branch._prepare().said is Said.YES


def test_a_failure_before_the_savepoint_stays(branch: SQLiteBranch) -> None:
    connection = branch.connection
    with pytest.raises(apsw.ConstraintError):
        connection.execute("UPDATE item SET amount = -1")
    with pytest.raises(ValueError, match="x"), connection:
        raise ValueError("x")
    assert branch._prepare().said is Said.NO


@pytest.mark.parametrize(
    "inner",
    ["/* one\ntwo */SAVEPOINT a", "-- so\nSAVEPOINT a", "SAVEPOINT/**/a", "SAVEPOINT -- so\n 'A'", 'SAVEPOINT"a";'],
)
def test_a_savepoint_behind_the_failure_does_not_undo_it(branch: SQLiteBranch, inner: str) -> None:
    connection = branch.connection
    connection.execute("SAVEPOINT a")
    with pytest.raises(apsw.ConstraintError):
        connection.execute("UPDATE item SET amount = -1")
    connection.execute(inner)
    connection.execute("ROLLBACK TO a")
    assert branch._prepare().said is Said.NO


def test_nothing_runs_after_sqlite_rolled_back_by_itself(lab: Lab, branch: SQLiteBranch) -> None:
    connection = branch.connection
    connection.execute("UPDATE item SET amount = 5")
    with pytest.raises(apsw.ConstraintError, match="too much"):
        connection.execute("INSERT INTO item VALUES (3, 2000, '')")
    with pytest.raises(GuardError, match="rolled back the whole branch"):
        connection.execute("UPDATE item SET amount = 6")
    assert branch._prepare().said is Said.NO
    assert lab.rows("SELECT sum(amount) FROM item") == [(30,)]


def test_statements_that_were_never_run_make_the_vote_no(branch: SQLiteBranch) -> None:
    branch.connection.execute("SELECT id FROM item; UPDATE item SET amount = 7")
    gc.collect()
    answer = branch._prepare()
    assert answer.said is Said.NO
    assert "not all statements of 'SELECT id FROM item; UPDATE item SET amount = 7' were run" in answer.reason


def test_values_that_were_never_run_make_the_vote_no(home: SQLiteBranch) -> None:
    home.connection.executemany("INSERT INTO counted (x) VALUES (?) RETURNING id", [(1,), (2,)]).fetchone()
    answer = home._decide({})
    assert answer.said is Said.NO
    assert "not all statements" in answer.reason


def test_statements_that_were_fetched_to_their_end_are_fine(branch: SQLiteBranch) -> None:
    connection = branch.connection
    connection.execute("SELECT id FROM item; UPDATE item SET amount = 7").fetchall()
    assert list(connection.execute("SELECT 1; SELECT 2")) == [(1,), (2,)]
    connection.execute("UPDATE item SET amount = 8; UPDATE item SET amount = 9;")
    connection.executemany("INSERT INTO counted (x) VALUES (?)", [(1,), (2,)])
    cursor = connection.execute("SELECT id FROM item")
    assert cursor.fetchone() == (1,)
    assert connection.execute("SELECT count(*) FROM item").get == 2
    assert connection.pragma("user_version") == 0
    assert branch._prepare().said is Said.YES


def test_a_deferred_foreign_key_is_checked_before_the_vote(lab: Lab, node: SQLiteNode) -> None:
    branch = lab.begin(lab.node(options={"foreign_keys": True}))
    branch.connection.execute("INSERT INTO child VALUES (5, 99)")
    answer = lab.run(branch.prepare())
    assert answer.said is Said.NO
    assert "foreign key" in answer.reason
