"""Real servers and fresh databases for the tests.

A server starts when the first test asks for it and serves the whole run; a test gets databases of its own on it. A test
that cannot have its server fails: it is never skipped.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, cast

import pytest

from nodoubt.testing.servers import MariaDBServer, PostgreSQLServer, Server
from tests import tls

ServerName = Literal["postgresql", "postgresql2", "postgresql_tls", "mariadb", "mariadb_log", "mysql"]
#: Without the transactions of its own, too, by which the server counts a table's rows anew.
BINARY_LOG = {
    "log_bin": "log",
    "sync_binlog": "1",
    "server_id": "1",
    "innodb_flush_log_at_timeout": "2700",
    "innodb_stats_auto_recalc": "0",
}
#: Where a PostgreSQL server keeps its files: in memory, if there is room. Each database that a test gets is 300 files, made and
#: dropped three times as fast there. What tests strike there is processes, lines and answers of fsync, not disks.
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 4 << 30
DatabaseFactory = Callable[[ServerName | Literal["sqlite"]], str]


def in_memory() -> Path | None:
    """The folder for files that no test needs on a disk; None where memory is short."""
    fits = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN
    return MEMORY if fits else None


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQLServer]:
    """The first PostgreSQL server of this run."""
    with PostgreSQLServer.start(within=in_memory()) as server:
        yield server


@pytest.fixture(scope="session")
def authority() -> Iterator[tls.Authority]:
    """Who issued the certificates of the servers that encrypt."""
    with tls.authority() as made:
        yield made


@pytest.fixture(scope="session")
def postgresql2() -> Iterator[PostgreSQLServer]:
    """A second PostgreSQL server, for transactions over two of a kind."""
    with PostgreSQLServer.start(within=in_memory()) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_tls(authority: tls.Authority) -> Iterator[PostgreSQLServer]:
    """Another one, which can encrypt, as not all builds can."""
    certificate, key = authority.issue("postgres")
    encrypting = {"ssl": "on", "ssl_cert_file": str(certificate), "ssl_key_file": str(key)}
    with PostgreSQLServer.start(encrypting, within=in_memory()) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDBServer]:
    """The MariaDB server of this run."""
    with MariaDBServer.start() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_log(authority: tls.Authority) -> Iterator[MariaDBServer]:
    """Another one, with a binary log, which can encrypt. It writes nothing to its disk but what somebody waits for."""
    certificate, key = authority.issue("mysql")
    with MariaDBServer.start(BINARY_LOG | {"ssl_cert": str(certificate), "ssl_key": str(key)}) as server:
        yield server


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DatabaseFactory]:
    """Call it with a server's fixture name or `sqlite`: the URL of a new, empty database, as often as needed.

    A test may leave its servers killed or paused; they run again before the next test.
    """
    made: list[tuple[Server, str]] = []

    def create(where: ServerName | Literal["sqlite"]) -> str:
        name = f"t_{secrets.token_hex(6)}"
        if where == "sqlite":
            return f"sqlite:///{tmp_path / name}.db"
        server = cast(Server, request.getfixturevalue(where))
        url = server.create_database(name)
        made.append((server, name))
        return url

    yield create
    for server, name in made:
        server.resume()
        if not server.running:
            server.restart()
        # An empty PostgreSQL database takes 7 MB, one of MariaDB next to nothing until the server's folder goes.
        if isinstance(server, PostgreSQLServer):
            server.drop_database(name)
