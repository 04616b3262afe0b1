"""The line for the write lock: who may look at it, and that nobody is held up by the line alone."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nodoubt.errors import NodeUnavailable
from nodoubt.nodes.sqlite_line import SELDOM, SUFFIX, Line
from tests.nodes.sqlite_lab import ACCOUNTS, TAKE, Lab


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    path.touch(0o640)
    return path


@pytest.fixture(params=["asyncio", "threads"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path, request.param)
    yield lab
    lab.close()


def test_the_first_looks_always_and_the_others_seldom(database: Path) -> None:
    with ExitStack() as stays:
        with Line(database) as first:
            assert all(first.may_try() for _ in range(SELDOM * 2))
            second = stays.enter_context(Line(database))
            assert [second.may_try() for _ in range(SELDOM * 2)] == [*[False] * (SELDOM - 1), True] * 2
        assert all(second.may_try() for _ in range(SELDOM * 2))
        with Line(database) as third:
            assert not third.may_try()


def test_the_file_is_as_open_as_the_database(database: Path) -> None:
    with Line(database) as line:
        assert line.may_try()
    file = database.with_name(database.name + SUFFIX)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_line_that_cannot_be_opened_lets_everybody_look(database: Path) -> None:
    database.with_name(database.name + SUFFIX).symlink_to(database)
    with Line(database) as first, Line(database) as second:
        assert first.may_try()
        assert second.may_try()


def test_nobody_waits_for_a_stopped_process_in_front_of_him(lab: Lab) -> None:
    node = lab.node(schema=ACCOUNTS, acquire_timeout_s=20.0)
    lab.run(lab.begin(node).roll_back(prepared=False))
    descriptor = os.open(node.path.with_name(node.path.name + SUFFIX), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        branch = lab.begin(node)
        branch.connection.execute(TAKE)
        lab.run(branch.roll_back(prepared=False))
    finally:
        os.close(descriptor)


def test_recovery_goes_past_the_line(lab: Lab) -> None:
    node = lab.node(schema=ACCOUNTS)
    with Line(node.path) as line:
        assert line.may_try()
        gid = lab.id().gid
        assert lab.run(node.probe([gid]))


def test_the_line_is_left_when_the_lock_is_not_to_be_had(lab: Lab) -> None:
    node, other = lab.node(schema=ACCOUNTS), lab.node()
    branch = lab.begin(node)
    with pytest.raises(NodeUnavailable, match="locked by another process"):
        lab.begin(other)
    with Line(node.path) as line:
        assert line.may_try()
    lab.run(branch.roll_back(prepared=False))
