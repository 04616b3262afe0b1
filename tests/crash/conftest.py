"""Databases that a whole module of crash tests shares: every case uses an id and a gid of its own."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodoubt.testing.servers import MariaDBServer, PostgreSQLServer
from tests.crash.harness import DOMAIN, Victim, install

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
def start() -> Iterator[Callable[..., Victim]]:
    """Starts victims, and leaves none behind."""
    started: list[Victim] = []

    def begin(**spec: object) -> Victim:
        started.append(Victim.start(domain=DOMAIN, **spec))
        return started[-1]

    yield begin
    for victim in started:
        victim.process.kill()
        victim.end()


@pytest.fixture
def work_id() -> int:
    """The primary key that only this case writes."""
    return next(_IDS)
