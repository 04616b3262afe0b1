"""Databases that a whole module of crash tests shares: every case uses an id and a gid of its own."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodoubt.testing.servers import MariaDBServer, PostgreSQLServer
from tests.crash.harness import Victim, install
from tests.crash.victim import play

_IDS = itertools.count(1)


@contextmanager
def fresh_nodes(postgresql: PostgreSQLServer, mariadb: MariaDBServer, folder: Path) -> Iterator[dict[str, str]]:
    """One node of each kind, with nothing in it yet."""
    database = f"crash_{secrets.token_hex(4)}"
    urls = {
        "postgresql": postgresql.create_database(database),
        "mariadb": mariadb.create_database(database),
        "sqlite": f"sqlite:///{folder / 'crash.db'}",
    }
    asyncio.run(install(urls))
    yield urls
    postgresql.drop_database(database)


@pytest.fixture(scope="module")
def nodes(
    postgresql: PostgreSQLServer, mariadb: MariaDBServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """One node of each kind: name -> URL."""
    with fresh_nodes(postgresql, mariadb, tmp_path_factory.mktemp("crash")) as urls:
        yield urls


@pytest.fixture
def own_nodes(postgresql: PostgreSQLServer, mariadb: MariaDBServer, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The same for one case alone: what it leaves can never be settled."""
    with fresh_nodes(postgresql, mariadb, tmp_path) as urls:
        yield urls


@pytest.fixture
def start() -> Iterator[Callable[..., Victim]]:
    """Starts victims, and leaves none behind."""
    started: list[Victim] = []

    def begin(target: Callable[..., None] = play, **spec: object) -> Victim:
        started.append(Victim.start(target, **spec))
        return started[-1]

    yield begin
    for victim in started:
        victim.process.kill()
        victim.end()


@pytest.fixture
def work_id() -> int:
    """The primary key that only this case writes."""
    return next(_IDS)
