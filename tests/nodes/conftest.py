"""A laboratory of SQLite databases, in both worlds, whose tests say what a node holds; and MariaDB's two drivers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodoubt.nodes.sqlite import SQLiteNode
from nodoubt.nodes.sqlite_branch import SQLiteBranch
from tests.nodes.mariadb_side import DriverName, Side
from tests.nodes.sqlite_lab import Lab


@pytest.fixture(params=["aiomysql", "pymysql"])
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    driver: DriverName = request.param
    made = Side(driver)
    yield made
    made.close()


@pytest.fixture(params=["asyncio", "threads"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path, request.param)
    yield lab
    lab.close()


@pytest.fixture
def branch(lab: Lab, node: SQLiteNode) -> Iterator[SQLiteBranch]:
    branch = lab.begin(node)
    yield branch
    lab.run(branch.roll_back(prepared=False))
