"""What a changeset carries, and what it cannot: then the vote is no, or the branch stays whole and waits."""

from __future__ import annotations

from typing import Any

import apsw
import pytest

from nodoubt.nodes.contract import Ended, Said
from nodoubt.nodes.sqlite import SQLiteNode
from nodoubt.nodes.sqlite_branch import SQLiteBranch
from tests.nodes.sqlite_lab import SCHEMA, Lab


@pytest.fixture
def node(lab: Lab) -> SQLiteNode:
    return lab.node(schema=SCHEMA)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO loose VALUES (NULL, 5)",
        "DELETE FROM loose WHERE key IS NULL",
        "UPDATE loose SET key = 'b' WHERE key IS NULL",
        "UPDATE loose SET key = NULL WHERE key = 'a'",
    ],
)
def test_rows_with_a_null_key_make_the_vote_no(branch: SQLiteBranch, sql: str) -> None:
    branch.connection.execute(sql)
    answer = branch._prepare()
    assert answer.said is Said.NO
    assert "'loose' has rows whose primary key is NULL" in answer.reason


def test_a_table_that_could_have_them_and_has_none_is_fine(lab: Lab, node: SQLiteNode) -> None:
    with lab.raw() as raw:
        raw.execute("DELETE FROM loose WHERE key IS NULL")
    branch = lab.begin(node)
    branch.connection.execute("UPDATE loose SET x = 5")
    assert lab.run(branch.prepare()).said is Said.YES
    assert lab.run(branch.roll_back(prepared=True)) is Ended.DONE


EQUAL_BUT_NOT_THE_SAME = """
CREATE TABLE name (key text PRIMARY KEY COLLATE NOCASE, x); INSERT INTO name VALUES ('Bob', 1), ('Al', 2);
CREATE TABLE free (key PRIMARY KEY, x) WITHOUT ROWID; INSERT INTO free VALUES (1, 1);
CREATE TABLE two (key text COLLATE NOCASE, x, PRIMARY KEY (key COLLATE BINARY)); INSERT INTO two VALUES ('Bob', 1), ('bob', 1);
CREATE TABLE rank (id integer PRIMARY KEY, pos integer UNIQUE CHECK (pos BETWEEN 1 AND 3));
INSERT INTO rank VALUES (1, 1), (2, 2);
CREATE TABLE mixed (a, b text COLLATE RTRIM, x, PRIMARY KEY (a, b)); INSERT INTO mixed VALUES (1, 'b', 1);
CREATE TABLE apart (key text, x, PRIMARY KEY (key COLLATE NOCASE)) WITHOUT ROWID; INSERT INTO apart VALUES ('Bob', 1);
"""


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM name WHERE key = 'bob'; INSERT INTO name VALUES ('bob', 9)",
        "INSERT OR REPLACE INTO name VALUES ('BOB', 9)",
        "UPDATE name SET key = 'AL' WHERE key = 'al'",
        "DELETE FROM free; INSERT INTO free VALUES (1.0, 9)",
        "UPDATE mixed SET b = 'b '",
        "INSERT INTO name VALUES ('zoe', 1); UPDATE name SET key = 'Zoe' WHERE key = 'zoe'",
        "SAVEPOINT a; UPDATE name SET key = 'BOB' WHERE key = 'bob'; ROLLBACK TO a; UPDATE name SET x = 5 WHERE key = 'al'",
        "INSERT INTO free VALUES (2, 1); UPDATE free SET key = 2.0 WHERE key = 2",
        "UPDATE two SET x = 9 WHERE key = 'Bob' COLLATE BINARY",
    ],
)
def test_what_would_not_be_done_again_the_same_makes_the_vote_no(lab: Lab, sql: str) -> None:
    branch = lab.begin(lab.node(schema=EQUAL_BUT_NOT_THE_SAME))
    branch.connection.execute(sql).fetchall()
    answer = lab.run(branch.prepare())
    assert answer.said is Said.NO
    assert "after a crash it could not be done again" in answer.reason


@pytest.mark.parametrize(
    ("sql", "query", "rows"),
    [
        ("UPDATE name SET x = 9 WHERE key = 'bob'", "SELECT * FROM name", [("Bob", 9), ("Al", 2)]),
        ("UPDATE name SET key = 'Ann' WHERE key = 'al'", "SELECT key FROM name", [("Ann",), ("Bob",)]),
        ("INSERT INTO name VALUES ('bob', 3) ON CONFLICT (key) DO UPDATE SET x = 7", "SELECT max(x) FROM name", [(7,)]),
        (
            "UPDATE rank SET pos = 3 WHERE id = 1; UPDATE rank SET pos = 1 WHERE id = 2; UPDATE rank SET pos = 2 WHERE id = 1",
            "SELECT id, pos FROM rank",
            [(1, 2), (2, 1)],
        ),
        ("INSERT INTO free VALUES (5, CAST(x'ff' AS text))", "SELECT hex(x) FROM free WHERE key = 5", [("FF",)]),
        ("DELETE FROM apart; INSERT INTO apart VALUES ('bob', 9)", "SELECT * FROM apart", [("bob", 9)]),
    ],
)
def test_what_looks_like_it_is_carried(lab: Lab, sql: str, query: str, rows: object) -> None:
    assert redo(lab, lab.node(schema=EQUAL_BUT_NOT_THE_SAME), sql) is Ended.DONE
    assert sorted(lab.rows(query)) == sorted(rows)  # type: ignore[call-overload]


# What a changeset carries: the owner dies after the vote, another one applies it


def redo(lab: Lab, node: SQLiteNode, sql: str) -> Ended:
    name = lab.id()
    branch = lab.begin(node, name)
    branch.connection.execute(sql).fetchall()
    assert lab.run(branch.prepare()).said is Said.YES
    branch.abandon()
    return lab.run(lab.node().finish(name, commit=True))


@pytest.mark.parametrize(
    ("sql", "query", "rows"),
    [
        ("UPDATE item SET amount = 11 WHERE id = 1", "SELECT amount FROM item", [(11,), (20,)]),
        ("UPDATE item SET amount = 11 WHERE id = 1", "SELECT text FROM log", [("item 1",)]),
        ("DELETE FROM item", "SELECT count(*) FROM item", [(0,)]),
        ("INSERT OR REPLACE INTO item VALUES (1, 7, NULL)", "SELECT * FROM item WHERE id = 1", [(1, 7, None)]),
        ("INSERT INTO item VALUES (3, 1, '') ON CONFLICT DO NOTHING", "SELECT max(id) FROM item", [(3,)]),
        ("INSERT INTO pair VALUES ('a', 1, x'00ff'), ('a', 2, 1.5)", "SELECT x FROM pair", [(b"\0\xff",), (1.5,)]),
        ("INSERT INTO pair VALUES ('a', 1, 0); DELETE FROM pair", "SELECT count(*) FROM pair", [(0,)]),
        ("INSERT INTO seen VALUES (9, 9)", "SELECT note FROM item WHERE id = 9", [("seen",)]),
        ("UPDATE item SET id = id + 100", "SELECT id FROM item", [(101,), (102,)]),
        (
            "SAVEPOINT a; UPDATE item SET amount = 1; ROLLBACK TO a; UPDATE item SET amount = 2 WHERE id = 2",
            "SELECT amount FROM item",
            [(10,), (2,)],
        ),
    ],
)
def test_a_changeset_does_what_the_block_did(lab: Lab, node: SQLiteNode, sql: str, query: str, rows: object) -> None:
    assert redo(lab, node, sql) is Ended.DONE
    assert lab.rows(query) == rows


def test_autoincrement_goes_on_after_numbers_that_were_given_out(lab: Lab, node: SQLiteNode) -> None:
    sql = "INSERT INTO counted (x) VALUES (1), (2), (3); DELETE FROM counted WHERE id > 1"
    assert redo(lab, node, sql) is Ended.DONE
    with lab.raw() as raw:
        raw.execute("INSERT INTO counted (x) VALUES (4)")
        assert raw.last_insert_rowid() == 4


def test_foreign_key_actions_are_not_done_twice(lab: Lab, node: SQLiteNode) -> None:
    name = lab.id()
    branch = lab.begin(lab.node(options={"foreign_keys": True}), name)
    branch.connection.execute("DELETE FROM parent; INSERT INTO parent VALUES (1); INSERT INTO child VALUES (7, 1)")
    assert lab.run(branch.prepare()).said is Said.YES
    branch.abandon()
    assert lab.run(lab.node().finish(name, commit=True)) is Ended.DONE
    assert lab.rows("SELECT * FROM child") == [(7, 1)]


@pytest.mark.parametrize(
    "interference",
    [
        "UPDATE item SET amount = 99 WHERE id = 1",
        "DELETE FROM item WHERE id = 2",
        "DROP TRIGGER seen_insert; DROP VIEW seen; DROP TABLE item",
        "DROP TRIGGER seen_insert; DROP VIEW seen; DROP TABLE item; CREATE TABLE item (id integer PRIMARY KEY)",
    ],
)
def test_a_branch_that_no_longer_fits_stays_whole(lab: Lab, node: SQLiteNode, interference: str) -> None:
    name = lab.id()
    branch = lab.begin(node, name)
    branch.connection.execute("UPDATE item SET amount = amount + 1")
    assert lab.run(branch.prepare()).said is Said.YES
    branch.abandon()
    with lab.raw() as raw:
        raw.execute(interference)
        before = raw.execute("SELECT * FROM log").fetchall()
    other = lab.node()
    assert lab.run(other.finish(name, commit=True)) is Ended.OWED
    assert [found.id for found in lab.run(other.prepared()).ours] == [name]
    assert lab.rows("SELECT * FROM log") == before, "nothing of it was applied"
    assert lab.run(other.applied([(name.gid, 1)])) == set()
    assert lab.run(other.finish(name, commit=False)) is Ended.DONE


REBUILT = """
DROP TRIGGER seen_insert; DROP VIEW seen; CREATE TABLE made (id integer PRIMARY KEY, {columns});
INSERT INTO made (id, amount, note) SELECT id, amount, note FROM item; DROP TABLE item; ALTER TABLE made RENAME TO item
"""


@pytest.mark.parametrize(
    ("interference", "ended", "seen"),
    [
        (REBUILT.format(columns="note text, amount"), Ended.OWED, []),
        ("ALTER TABLE item RENAME COLUMN note TO remark", Ended.OWED, []),
        (
            "ALTER TABLE item DROP COLUMN note; ALTER TABLE item ADD COLUMN colour; ALTER TABLE item ADD COLUMN note",
            Ended.OWED,
            [],
        ),
        ("ALTER TABLE item ADD COLUMN more", Ended.DONE, [(5, "five", None)]),
        (REBUILT.format(columns="amount, note text, more"), Ended.DONE, [(5, "five", None)]),
    ],
)
def test_values_land_in_the_columns_that_they_were_meant_for(
    lab: Lab, node: SQLiteNode, interference: str, ended: Ended, seen: list[object]
) -> None:
    name = lab.id()
    branch = lab.begin(node, name)
    branch.connection.execute("INSERT INTO item VALUES (5, 5, 'five')")
    assert lab.run(branch.prepare()).said is Said.YES
    branch.abandon()
    with lab.raw() as raw:
        raw.execute(interference)
    other = lab.node()
    assert lab.run(other.finish(name, commit=True)) is ended
    query = "SELECT amount, note, more FROM item WHERE id = 5" if seen else "SELECT 1 FROM item WHERE id = 5"
    assert lab.rows(query) == seen
    assert [found.id for found in lab.run(other.prepared()).ours] == ([] if seen else [name])


REGISTERED = """
CREATE TABLE word (id integer PRIMARY KEY, text text COLLATE house);
CREATE TABLE sum (id integer PRIMARY KEY, x); CREATE INDEX sum_doubled ON sum (doubled(x));
CREATE TABLE checked (id integer PRIMARY KEY, x CHECK (doubled(x) < 100));
"""


def register(connection: Any) -> None:
    """Teach a connection what the tables of ``REGISTERED`` need."""
    connection.create_collation("house", lambda one, two: (one > two) - (one < two))
    connection.create_scalar_function("doubled", lambda x: 2 * x, deterministic=True)


@pytest.fixture
def registered(lab: Lab) -> SQLiteNode:
    node = lab.node()
    with lab.raw() as raw:
        register(raw)
        raw.execute(REGISTERED)
    return node


@pytest.mark.parametrize(
    ("table", "why"), [("word", "no such collation sequence: house"), ("sum", "unknown function: doubled()")]
)
def test_what_only_the_block_knows_recovery_cannot_do_again(
    lab: Lab, registered: SQLiteNode, table: str, why: str
) -> None:
    branch = lab.begin(registered)
    register(branch.connection)
    branch.connection.execute(f"INSERT INTO {table} VALUES (1, 1)")
    answer = lab.run(branch.prepare())
    assert answer.said is Said.NO
    assert f"after a crash it could not be done again (SQLError: {why})" in answer.reason


@pytest.mark.parametrize("table", ["word", "sum", "checked"])
def test_what_the_program_registers_for_all_its_connections_it_can(
    lab: Lab, registered: SQLiteNode, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apsw, "connection_hooks", [*apsw.connection_hooks, register])
    name = lab.id()
    branch = lab.begin(lab.node(), name)
    branch.connection.create_scalar_function("more", lambda x: x + 1)
    branch.connection.execute(f"INSERT INTO {table} VALUES (1, more(0))")
    assert lab.run(branch.prepare()).said is Said.YES
    branch.abandon()
    assert lab.run(lab.node().finish(name, commit=True)) is Ended.DONE
    assert lab.rows(f"SELECT id FROM {table} NOT INDEXED") == [(1,)]


def test_a_function_for_a_check_was_asked_in_the_block(lab: Lab, registered: SQLiteNode) -> None:
    name = lab.id()
    branch = lab.begin(registered, name)
    register(branch.connection)
    branch.connection.execute("INSERT INTO checked VALUES (1, 1)")
    assert lab.run(branch.prepare()).said is Said.YES
    branch.abandon()
    assert lab.run(lab.node().finish(name, commit=True)) is Ended.DONE
    assert lab.rows("SELECT * FROM checked") == [(1, 1)]


# Facts of SQLite that the rules rest on


def test_a_changeset_skips_rows_without_a_key_in_silence() -> None:
    raw = apsw.Connection(":memory:")
    raw.execute("CREATE TABLE bare (x); CREATE TABLE loose (key text PRIMARY KEY)")
    session = apsw.Session(raw, "main")
    session.attach()
    raw.execute("INSERT INTO bare VALUES (1); INSERT INTO loose VALUES (NULL)")
    assert session.changeset() == b""
    session.close()
    raw.close()


def test_a_changeset_is_applied_past_a_missing_table_in_silence() -> None:
    raw, empty = apsw.Connection(":memory:"), apsw.Connection(":memory:")
    raw.execute("CREATE TABLE item (id integer PRIMARY KEY)")
    session = apsw.Session(raw, "main")
    session.attach()
    raw.execute("INSERT INTO item VALUES (1)")
    apsw.Changeset.apply(session.changeset(), empty)
    session.close()
    for connection in (raw, empty):
        connection.close()


def test_statements_run_only_as_rows_are_fetched() -> None:
    raw = apsw.Connection(":memory:")
    cursor = raw.execute("CREATE TABLE t (x); SELECT 1; INSERT INTO t VALUES (1)")
    assert raw.execute("SELECT count(*) FROM t").get == 0
    cursor.fetchall()
    assert raw.execute("SELECT count(*) FROM t").get == 1
    raw.close()
