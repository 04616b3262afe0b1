"""Real processes that die at exact points, and several that work at once, on two SQLite nodes."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import apsw
import pytest

from nodoubt import AsyncTransactionManager, NodeUnavailable
from nodoubt.engine.worlds import AsyncWorld
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.registry import make_node
from nodoubt.nodes.sqlite import SQLiteNode
from nodoubt.protocol.ids import new_gid
from nodoubt.protocol.verdicts import HomeSays
from tests.nodes.sqlite_child import nodes

CHILD = Path(__file__).with_name("sqlite_child.py")
TRIGGER = "CREATE TRIGGER note AFTER UPDATE ON account BEGIN INSERT INTO log (amount) VALUES (new.amount); END"


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    for name, table in nodes(tmp_path).items():
        settings = NodeSettings(**table)
        await make_node(name, "lab", settings, AsyncWorld(), asynchronous=True).install()
        raw = apsw.Connection(str(tmp_path / f"{name}.db"))
        raw.execute(
            "CREATE TABLE account (id integer PRIMARY KEY, amount integer); INSERT INTO account VALUES (1, 100)"
        )
        raw.execute(f"CREATE TABLE log (id integer PRIMARY KEY AUTOINCREMENT, amount integer); {TRIGGER}")
        raw.close()
    return tmp_path


def rows(folder: Path, name: str, sql: str) -> list[Any]:
    raw = apsw.Connection(str(folder / f"{name}.db"))
    try:
        return raw.execute(sql).fetchall()
    finally:
        raw.close()


def amounts(folder: Path) -> tuple[int, int]:
    left, right = (rows(folder, name, "SELECT amount FROM account")[0][0] for name in ("left", "right"))
    return left, right


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(CHILD), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def crash(folder: Path, point: str, *, task: str = "crash") -> None:
    child = start(task, folder, point)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL, errors


BEFORE, AFTER = (100, 100), (90, 110)

POINTS = {
    "order Prepare": BEFORE,
    "before create": BEFORE,
    "before write": BEFORE,
    "before fsync": BEFORE,
    "after fsync": BEFORE,
    "before rename": BEFORE,
    "after rename": BEFORE,
    "after fsync_folder": BEFORE,
    "fact Prepared": BEFORE,
    "order Decide": BEFORE,
    "fact DecisionDurable": AFTER,
    "order CommitBranch": AFTER,
    "fact BranchCommitted": AFTER,
    "order Forget": AFTER,
    "evidence deletion": AFTER,
}


@pytest.mark.parametrize(("point", "end"), POINTS.items())
async def test_killed_and_settled_by_another_process(folder: Path, point: str, end: tuple[int, int]) -> None:
    crash(folder, point)
    async with AsyncTransactionManager.open(nodes(folder), domain="lab", settle=False) as tm:
        await tm.engine.settle(grace_s=0)
        assert amounts(folder) == end
        again = await tm.engine.settle(grace_s=0)
        assert (again.settled, again.waiting, again.strays) == (0, [], [])
        assert await tm.in_doubt() == []
        async with tm.transaction() as tx:
            (await tx.on("left")).execute("UPDATE account SET amount = amount - 1")
            (await tx.on("right")).execute("UPDATE account SET amount = amount + 1")
    assert amounts(folder) == (end[0] - 1, end[1] + 1)
    changes = 1 if end == BEFORE else 2
    assert rows(folder, "right", "SELECT count(*), max(id) FROM log") == [(changes, changes)], "a trigger runs once"
    assert not (folder / "right.db-nodoubt").exists()
    assert not (folder / "right.db-nodoubt-new").exists()


def found_when_all_are_dead(folder: Path, name: str) -> list[Any]:
    """What is read where nobody has the index of the WAL file any more."""
    there = folder / "there"
    there.mkdir()
    # By another process: to close the file in this one would undo SQLite's locks.
    subprocess.run(["cp", folder / f"{name}.db", folder / f"{name}.db-wal", there], check=True)
    return rows(there, name, "SELECT amount FROM account")


async def test_a_commit_that_nobody_saw_comes_back_when_all_are_dead(folder: Path) -> None:
    async with AsyncTransactionManager.open(nodes(folder), domain="lab", settle=False):
        crash(folder, "left", task="vanish")
        assert amounts(folder) == (100, 100)
        assert found_when_all_are_dead(folder, "left") == [(200,)]


async def test_a_branch_overwrites_a_commit_that_nobody_saw(folder: Path) -> None:
    """Else it would be done again from its journal on rows that it never saw, or could not be done at all."""
    async with AsyncTransactionManager.open(nodes(folder), domain="lab", settle=False) as tm:
        crash(folder, "left", task="vanish")
        sessions = cast(SQLiteNode, tm.nodes["left"]).sessions
        assert sessions.has_unseen()
        async with tm.transaction() as tx:
            (await tx.on("right")).execute("UPDATE account SET amount = amount + 10")
            left = await tx.on("left")
            assert left.execute("SELECT amount FROM account").fetchall() == [(100,)]
            assert not sessions.has_unseen()
            assert found_when_all_are_dead(folder, "left") == [(100,)]
            left.execute("UPDATE account SET amount = amount - 10")
    assert amounts(folder) == (90, 110)


async def test_killed_and_settled_because_somebody_waits(folder: Path) -> None:
    """Without a word from anybody: the next transaction finds the branch in its way, and the background settles it."""
    crash(folder, "order CommitBranch")
    async with AsyncTransactionManager.open(nodes(folder), domain="lab", grace_s=3600, settle_every_s=3600) as tm:

        async def work(tx: Any) -> None:
            (await tx.on("right")).execute("UPDATE account SET amount = amount + 1")

        await tm.run(work)
    assert amounts(folder) == (90, 111)


@pytest.mark.parametrize("point", ["evidence deletion", "before unlink", "after unlink", "before fsync_folder"])
async def test_a_kill_in_the_midst_of_settling(folder: Path, point: str) -> None:
    crash(folder, "order CommitBranch")
    child = start("settle", folder, point)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL, errors
    async with AsyncTransactionManager.open(nodes(folder), domain="lab", settle=False) as tm:
        await tm.engine.settle(grace_s=0)
    assert amounts(folder) == AFTER


def patient(folder: Path) -> dict[str, dict[str, Any]]:
    """Nodes that would wait for hours for a branch in doubt."""
    return {name: table | {"lock_timeout_s": 3600.0} for name, table in nodes(folder).items()}


@pytest.mark.parametrize(("point", "end"), [("order Decide", BEFORE), ("order CommitBranch", AFTER)])
async def test_who_holds_the_lock_of_home_does_not_wait_for_the_decision(
    folder: Path, point: str, end: tuple[int, int]
) -> None:
    """It gives up, which lets the background ask home, and goes through when it tries again."""
    crash(folder, point)
    refused = 0
    async with AsyncTransactionManager.open(
        patient(folder), domain="lab", grace_s=3600, settle_every_s=3600, forget_every_s=3600
    ) as tm:

        async def work(tx: Any) -> None:
            nonlocal refused
            (await tx.on("left")).execute("UPDATE account SET amount = amount - 1")
            try:
                right = await tx.on("right")
            except NodeUnavailable:
                refused += 1
                raise
            right.execute("UPDATE account SET amount = amount + 1")

        async with asyncio.timeout(20):
            await tm.run(work, attempts=10)
    assert refused
    assert amounts(folder) == (end[0] - 1, end[1] + 1)


async def test_a_branch_in_doubt_is_settled_in_a_crowd(folder: Path) -> None:
    """Four processes want the lock of its home, and then that of its node."""
    crash(folder, "order Decide")
    children = [start("move", folder, 15) for _ in range(4)]
    results = [child.communicate(timeout=60) for child in children]
    assert [output.strip() for output, _ in results] == ["15"] * 4, "nobody used up its attempts"
    assert sum(amounts(folder)) == 200


async def test_a_probe_comes_through_a_crowd(folder: Path) -> None:
    children = [start("hammer", folder, "left") for _ in range(4)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "at work\n"
    settings = NodeSettings(**nodes(folder)["left"])
    left = make_node("left", "lab", settings, AsyncWorld(), asynchronous=True)
    await left.open()
    gids = [new_gid(1_700_000_000_000 + number, bytes(10)) for number in range(30)]
    answers = [(await left.probe([gid]))[gid] for gid in gids]
    await left.close()
    results = [child.communicate(timeout=60) for child in children]
    assert [child.returncode for child in children] == [0] * 4, results
    assert set(answers) == {HomeSays.FRESH}, "none was BUSY: each had the lock within lock_timeout_s"


async def test_several_processes_lose_and_double_nothing(folder: Path) -> None:
    children = [start("move", folder, 15) for _ in range(4)]
    results = [child.communicate(timeout=110) for child in children]
    assert [child.returncode for child in children] == [0] * 4, results
    assert sum(int(output) for output, _ in results) > 0
    assert sum(amounts(folder)) == 200
    async with AsyncTransactionManager.open(nodes(folder), domain="lab", settle=False) as tm:
        await tm.engine.settle(grace_s=0)
        assert await tm.in_doubt() == []
    assert sum(amounts(folder)) == 200
    for name in ("left", "right"):
        done = sum(int(output) for output, _ in results)
        assert rows(folder, name, "SELECT count(*) FROM log") == [(done,)], "each move that was told happened once"
