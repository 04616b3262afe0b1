"""SQLite branches that are fenced, abandoned, or meet a failing disk; evidence and journals that outlive each other."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from nodoubt import AsyncTransactionManager
from nodoubt.engine.worlds import AsyncWorld
from nodoubt.errors import Aborted, NodeUnavailable
from nodoubt.journal.files import Files, Journal
from nodoubt.nodes import sqlite_sessions, sqlite_tables
from nodoubt.nodes.contract import YES, Ended, Said
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.failures import StatementFailed
from nodoubt.nodes.sqlite import SQLiteNode
from nodoubt.protocol.ids import BranchId, new_gid
from tests.nodes.sqlite_lab import ACCOUNTS, TAKE, Lab


@pytest.fixture
def node(lab: Lab) -> SQLiteNode:
    return lab.node(schema=ACCOUNTS)


def test_a_fence_and_an_end_close_connection_and_cursors(lab: Lab, node: SQLiteNode) -> None:
    branch = lab.begin(node)
    cursor = branch.connection.execute("SELECT 1 UNION SELECT 2")
    branch.fence(NodeUnavailable("too late"))
    for use in (lambda: next(cursor), cursor.fetchall, lambda: branch.connection.execute("SELECT 1")):
        with pytest.raises(NodeUnavailable, match="too late"):
            use()
    lab.run(branch.roll_back(prepared=False))


def test_abandon_interrupts_and_rolls_back(lab: Lab, node: SQLiteNode) -> None:
    branch = lab.begin(node)
    branch.connection.execute(TAKE)
    running = threading.Event()

    def started() -> int:
        running.set()
        return 1

    branch.connection.create_scalar_function("started", started)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            branch.connection.execute(
                "WITH RECURSIVE n(i) AS (SELECT started() UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
            ).fetchall()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert running.wait(20)
    branch.abandon()
    thread.join()
    assert len(errors) == 1
    assert "interrupt" in str(errors[0])
    answer = lab.run(branch.prepare())
    assert (answer.said, answer.retryable) == (Said.NO, True)
    assert lab.run(branch.roll_back(prepared=False)) is Ended.DONE
    assert lab.amount() == 100
    lab.run(lab.begin(node).roll_back(prepared=False))


def test_abandon_before_the_decision_answers_no(lab: Lab, node: SQLiteNode) -> None:
    branch = lab.begin(node, home=True)
    branch.connection.execute(TAKE)
    branch.abandon()
    assert lab.run(branch.decide({})).said is Said.NO
    assert lab.amount() == 100


@pytest.mark.parametrize(
    ("call", "said"), [("create", Said.NO), ("write", Said.NO), ("fsync", Said.NO), ("fsync_folder", Said.UNKNOWN)]
)
def test_a_full_or_failing_disk_under_the_journal(lab: Lab, node: SQLiteNode, call: str, said: Said) -> None:
    def fail(*arguments: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files = Files()
    setattr(files, call, fail)
    node.journal = Journal(node.path, files)
    branch = lab.begin(node)
    branch.connection.execute(TAKE)
    answer = lab.run(branch.prepare())
    assert answer.said is said
    assert "No space left" in answer.reason
    assert isinstance(answer.error, OSError)
    if said is Said.UNKNOWN:
        assert lab.run(branch.roll_back(prepared=True)) is Ended.DONE
    assert lab.amount() == 100
    assert lab.run(node.prepared()).ours == ()
    lab.run(lab.begin(node).roll_back(prepared=False))


def test_a_disk_that_fails_while_the_node_is_opened(lab: Lab, node: SQLiteNode) -> None:
    class Failing(Files):
        def status(self, path: Path) -> os.stat_result:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    lab.run(node.close())
    node.journal = Journal(node.path, Failing())
    with pytest.raises(NodeUnavailable, match="Input/output"):
        lab.run(node.open())
    node.journal = Journal(node.path)
    lab.run(node.open())


def test_a_full_database_at_commit_goes_by_the_journal(lab: Lab, node: SQLiteNode) -> None:
    name = lab.id()
    branch = lab.begin(node, name)
    branch.connection.execute(TAKE)
    lab.run(branch.prepare())
    command = branch._session.command

    def full(sql: str, *values: Any) -> list[Any]:
        if sql == "COMMIT":
            raise StatementFailed("SQLITE_FULL", "database or disk is full")
        return command(sql, *values)

    branch._session.command = full  # type: ignore[method-assign]
    assert lab.run(branch.commit()) is Ended.DONE
    assert lab.amount() == 90


@pytest.mark.parametrize(
    ("code", "happened", "said"),
    [
        ("SQLITE_FULL", False, Said.NO),
        ("SQLITE_IOERR", False, Said.UNKNOWN),
        ("SQLITE_IOERR", True, Said.YES),
        ("SQLITE_FULL", True, Said.YES),
    ],
)
def test_an_error_at_the_decision(lab: Lab, node: SQLiteNode, code: str, happened: bool, said: Said) -> None:
    branch = lab.begin(node, lab.id(0), home=True)
    branch.connection.execute(TAKE)
    command = branch._session.command

    def failing(sql: str, *values: Any) -> list[Any]:
        if sql == "COMMIT":
            if happened:
                command(sql, *values)
            raise StatementFailed(code, "so it says")
        return command(sql, *values)

    branch._session.command = failing  # type: ignore[method-assign]
    assert lab.run(branch.decide({})).said is said
    assert lab.amount() == (90 if happened else 100)


def test_evidence_goes_only_after_the_journal_is_gone_for_good(
    lab: Lab, node: SQLiteNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    class Noted(Files):
        def unlink(self, path: Path) -> None:
            super().unlink(path)
            steps.append(f"unlink {path.name}")

        def fsync_folder(self, path: Path) -> None:
            super().fsync_folder(path)
            steps.append("force")

    delete = sqlite_tables.delete_evidence

    def deleted(session: Any, gids: Any) -> None:
        steps.append("delete evidence")
        delete(session, gids)

    monkeypatch.setattr(sqlite_tables, "delete_evidence", deleted)
    name = lab.id()
    branch = lab.begin(node, name)
    branch.connection.execute(TAKE)
    lab.run(branch.prepare())
    lab.run(branch.commit())
    node.journal = Journal(node.path, Noted())
    lab.run(node.drop_evidence([name.gid]))
    assert steps == ["unlink shop.db-nodoubt-new", "unlink shop.db-nodoubt", "force", "delete evidence"]


def test_evidence_stays_when_the_removal_cannot_be_forced(lab: Lab, node: SQLiteNode) -> None:
    class Failing(Files):
        def fsync_folder(self, path: Path) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    name = lab.id()
    branch = lab.begin(node, name)
    lab.run(branch.prepare())
    lab.run(branch.commit())
    node.journal = Journal(node.path, Failing())
    with pytest.raises(NodeUnavailable, match="could not drop evidence"):
        lab.run(node.drop_evidence([name.gid]))
    assert lab.run(node.applied([(name.gid, 1)])) == {(name.gid, 1)}


def test_a_journal_that_comes_back_is_not_applied_twice(lab: Lab, node: SQLiteNode) -> None:
    name = lab.id()
    branch = lab.begin(node, name)
    branch.connection.execute(TAKE)
    lab.run(branch.prepare())
    journal = node.journal.path.read_bytes()
    lab.run(branch.commit())
    node.journal.path.unlink()
    node.journal.path.write_bytes(journal)
    assert lab.run(node.prepared()).ours == ()
    assert lab.run(node.finish(name, commit=True)) is Ended.APPLIED
    assert lab.amount() == 90


async def test_a_cancelled_wait_for_the_lock_does_not_take_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that waits goes on when its task is cancelled: what it gets then, it must let go."""
    waits: list[float] = []
    take = sqlite_sessions.try_lock

    def noted(session: Any, wait_s: float = 0.0) -> bool:
        waits.append(wait_s)
        return take(session, wait_s)

    monkeypatch.setattr(sqlite_sessions, "try_lock", noted)
    world = AsyncWorld()
    settings = NodeSettings(url=f"sqlite:///{tmp_path / 'shop.db'}", acquire_timeout_s=20)
    node, other = (SQLiteNode("shop", "lab", settings, world) for _ in range(2))
    await node.install()
    for each in (node, other):
        await each.open()
    name = BranchId(domain="lab", gid=new_gid(1, bytes(10)), branch=0, home="shop")
    holder = await other.begin(name, read_only=False, is_home=True)
    waiting = asyncio.create_task(node.begin(name, read_only=False, is_home=True))
    while len(waits) < 2:
        await world.sleep(0.001)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await holder.roll_back(prepared=False)
    for each in (other, node):
        branch = await each.begin(name, read_only=False, is_home=True)
        assert (await branch.decide({}) if each is node else await branch.roll_back(prepared=False)) in (
            YES,
            Ended.DONE,
        )
    for each in (node, other):
        await each.close()


async def test_a_deadline_ends_a_branch_and_lets_the_next_one_in(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    await SQLiteNode("shop", "lab", NodeSettings(url=url), AsyncWorld()).install()
    leaked: list[Any] = []

    async def hang(tm: AsyncTransactionManager) -> None:
        async with tm.transaction(timeout=0.05) as tx:
            leaked.append(await tx.on("shop"))
            leaked[0].execute("CREATE TABLE t (x)")
            await asyncio.Event().wait()

    async with AsyncTransactionManager.open({"shop": url}, domain="lab") as tm:
        with pytest.raises(Aborted, match="not over within"):
            await hang(tm)
        with pytest.raises(Aborted, match="not over within"):
            leaked[0].execute("SELECT 1")
        async with tm.transaction() as tx:
            (await tx.on("shop")).execute("CREATE TABLE t (x)")
