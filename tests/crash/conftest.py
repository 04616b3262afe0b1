"""Databases that a whole module of crash tests shares: every case uses an id and a gid of its own."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodoubt.testing.servers import MariaDBServer, PostgreSQLServer
from tests.crash.harness import install

_IDS = itertools.count(1)


@pytest.fixture(scope="module")
def nodes(
    postgresql: PostgreSQLServer, mariadb: MariaDBServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """One node of each kind: name -> URL."""
    database = f"crash_{secrets.token_hex(4)}"
    folder: Path = tmp_path_factory.mktemp("crash")
    urls = {
        "postgresql": postgresql.create_database(database),
        "mariadb": mariadb.create_database(database),
        "sqlite": f"sqlite:///{folder / 'crash.db'}",
    }
    asyncio.run(install(urls))
    yield urls
    postgresql.drop_database(database)


@pytest.fixture
def work_id() -> int:
    """The primary key that only this case writes."""
    return next(_IDS)
