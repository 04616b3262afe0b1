"""A file that is opened in a manager's process past apsw: refused where Python tells of it, noticed where it does not."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nodoubt.errors import ConfigError, GuardError, NodeUnavailable
from nodoubt.nodes.contract import Ended, Said
from nodoubt.nodes.sqlite import SQLiteNode
from tests.nodes.sqlite_lab import ACCOUNTS, AMOUNT, TAKE, Lab


@pytest.fixture
def node(lab: Lab) -> SQLiteNode:
    return lab.node(schema=ACCOUNTS)


def uri(path: Path) -> Any:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)


def link(path: Path) -> Any:
    path.with_name("link.db").symlink_to(path)
    return sqlite3.connect(path.with_name("link.db"))


@pytest.mark.parametrize(
    "opened",
    [
        sqlite3.connect,
        sqlite3.Connection,
        lambda path: sqlite3.connect(os.fsencode(path)),
        uri,
        link,
        open,
        lambda path: os.open(path, os.O_RDONLY),
        lambda path: os.open(f"{path}-shm", os.O_RDWR),
        lambda path: shutil.copy(path, path.with_name("copy.db")),
    ],
)
def test_opening_an_open_file_past_apsw_is_refused(lab: Lab, node: SQLiteNode, opened: Callable[[Path], Any]) -> None:
    with pytest.raises(GuardError, match=r"the file is node 'shop' of an open manager"):
        opened(lab.path())


def test_other_files_are_nobodys_business(lab: Lab, node: SQLiteNode) -> None:
    with closing(sqlite3.connect(":memory:")), closing(sqlite3.connect(lab.path("other"))):
        assert lab.path("other").read_bytes() == b""


def test_another_process_may_open_it(lab: Lab, node: SQLiteNode) -> None:
    def read() -> None:
        with closing(sqlite3.connect(lab.path())) as connection:
            sys.exit(connection.execute(AMOUNT).fetchone()[0])

    child = multiprocessing.get_context("fork").Process(target=read)
    child.start()
    child.join()
    assert child.exitcode == 100


def test_after_the_last_manager_closed_it_is_everybodys_again(lab: Lab, node: SQLiteNode) -> None:
    again = lab.node()
    lab.run(node.close())
    with pytest.raises(GuardError):
        sqlite3.connect(lab.path())
    lab.run(again.close())
    with closing(sqlite3.connect(lab.path())) as connection:
        assert connection.execute(AMOUNT).fetchall() == [(100,)]


def test_a_manager_does_not_open_what_is_open_past_apsw(lab: Lab) -> None:
    node = lab.node(schema=ACCOUNTS, opened=False)
    with closing(sqlite3.connect(lab.path())), pytest.raises(ConfigError, match="open in this process already"):
        lab.run(node.open())
    with lab.raw():
        lab.run(node.open())
    lab.run(node.close())


# What Python does not tell of


@pytest.fixture
def taken_away(lab: Lab, node: SQLiteNode) -> Callable[[], None]:
    """Have the WAL file removed as another copy of SQLite does it, which takes itself for the last to close the file."""

    def close_elsewhere() -> None:
        with closing(sqlite3.connect(":memory:")) as other:
            other.execute(f"ATTACH '{lab.path()}' AS shop")
            other.execute("SELECT * FROM shop.account").fetchall()
        assert not Path(f"{lab.path()}-wal").exists()

    return close_elsewhere


@pytest.mark.parametrize("home", [False, True])
def test_a_vote_and_a_decision_are_not_given_to_a_file_that_is_gone(
    lab: Lab, node: SQLiteNode, taken_away: Callable[[], None], home: bool
) -> None:
    branch = lab.begin(node, home=home)
    branch.connection.execute(TAKE)
    taken_away()
    answer = lab.run(branch.decide({}) if home else branch.prepare())
    assert answer.said is Said.NO
    assert "replaced or removed" in answer.reason
    assert lab.amount() == 100


def test_a_decision_that_went_to_a_file_that_was_taken_away_meanwhile_is_unknown(
    lab: Lab, node: SQLiteNode, taken_away: Callable[[], None]
) -> None:
    branch = lab.begin(node, home=True)
    branch.connection.execute(TAKE)
    command = branch._session.command

    def committed(sql: str, *values: Any) -> Any:
        if sql == "COMMIT":
            taken_away()
        return command(sql, *values)

    branch._session.command = committed  # type: ignore[method-assign]
    assert lab.run(branch.decide({})).said is Said.UNKNOWN


def test_a_prepared_branch_is_left_to_its_journal(lab: Lab, node: SQLiteNode, taken_away: Callable[[], None]) -> None:
    branch = lab.begin(node)
    branch.connection.execute(TAKE)
    assert lab.run(branch.prepare()).said is Said.YES
    taken_away()
    assert lab.run(branch.commit()) is Ended.OWED
    lab.run(node.close())
    again = lab.node()
    assert [listed.id for listed in lab.run(again.prepared()).ours] == [branch._id]
    lab.run(again.finish(branch._id, commit=True))
    assert lab.amount() == 90


def test_nothing_else_is_done_on_it_until_it_is_opened_again(
    lab: Lab, node: SQLiteNode, taken_away: Callable[[], None]
) -> None:
    taken_away()
    for step in (lambda: lab.begin(node), lambda: lab.run(node.probe(["gid"])), lambda: lab.run(node.prepared())):
        with pytest.raises(NodeUnavailable, match="replaced or removed") as told:
            step()
        assert "End this process" in told.value.hint
        assert not told.value.retryable
    lab.run(node.close())
    lab.begin(lab.node())


def test_a_database_that_is_replaced_is_noticed(lab: Lab, node: SQLiteNode) -> None:
    lab.path().rename(lab.path("away"))
    lab.path().write_bytes(b"")
    with pytest.raises(NodeUnavailable, match="replaced or removed"):
        lab.begin(node)


def test_who_lost_the_file_leaves_what_is_there_alone(
    lab: Lab, node: SQLiteNode, taken_away: Callable[[], None]
) -> None:
    taken_away()
    wal = Path(f"{lab.path()}-wal")
    wal.write_bytes(b"of somebody who died")
    lab.run(node.close())
    assert wal.read_bytes() == b"of somebody who died"
