"""The servers really start, crash, freeze, come back and go away, and committed data survives all of it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from nodoubt.testing import processes
from nodoubt.testing.servers import MariaDBServer, PostgreSQLServer, Server, ServerFailed, ServerMissing
from tests import plain
from tests.conftest import DatabaseFactory

SERVERS: tuple[type[Server], ...] = (PostgreSQLServer, MariaDBServer)


@pytest.fixture(params=SERVERS, ids=lambda server: str(server.kind))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of this test's own: what happens to it disturbs nobody."""
    started: Server = request.param.start()
    with started:
        yield started


def test_a_process_that_ends_while_all_are_listed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks whether its file is there may find that it is not, and not only by FileNotFoundError."""
    real = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("/stat"):
            raise ProcessLookupError(path)
        return real(path, **options)

    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        monkeypatch.setattr(os, "stat", stat)
        assert child.pid in processes._descendants(os.getpid())
        assert not processes.frozen([child.pid])


def run(url: str, *statements: str) -> Any:
    """Run statements in auto-commit over TCP and return the last one's rows."""
    if url.startswith("postgresql:"):
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as postgresql:
            for statement in statements:
                last = postgresql.execute(statement.encode())
            return last.fetchall() if last.description else []
    with closing(plain.mariadb(url)) as mariadb:
        cursor = mariadb.cursor()
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall())


def fill(url: str) -> None:
    run(url, "CREATE TABLE fact (number INT PRIMARY KEY)", "INSERT INTO fact VALUES (42)")


def held(url: str) -> Any:
    return run(url, "SELECT number FROM fact")


def test_committed_data_survive_a_kill(server: Server) -> None:
    fill(server.url)
    server.kill()
    assert not server.running
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)
    before = server.url
    server.restart()
    assert server.url == before
    assert held(server.url) == [(42,)]


def test_restart_of_a_running_server_is_clean(server: Server) -> None:
    fill(server.url)
    server.restart()
    assert held(server.url) == [(42,)]
    assert "crash recovery" not in (server.folder / "log").read_text().lower()


def test_a_paused_server_is_silent_until_resumed(server: Server) -> None:
    fill(server.url)
    server.pause()
    # The kernel still completes the connection. Silence has no end to wait for: a moment must do.
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")  # PostgreSQL's SSLRequest; MariaDB would greet first
        assert not select.select([client], [], [], 0.3)[0]
        server.resume()
        assert select.select([client], [], [], 30)[0]
    assert held(server.url) == [(42,)]


def test_a_paused_server_can_be_killed_and_stopped(server: Server) -> None:
    fill(server.url)
    server.pause()
    server.kill()
    server.restart()
    assert held(server.url) == [(42,)]
    server.pause()
    server.stop()
    assert not server.folder.exists()


def test_a_server_that_is_down_cannot_be_paused(server: Server) -> None:
    server.kill()
    server.kill()
    server.resume()
    with pytest.raises(ServerFailed, match="not running"):
        server.pause()


def test_databases_are_separate_and_well_named(server: Server) -> None:
    first, second = server.create_database("first"), server.create_database("second")
    fill(first)
    fill(second)
    assert held(first) == held(second) == [(42,)]
    with pytest.raises(ServerFailed, match="first"):
        server.create_database("first")
    with pytest.raises(ValueError, match="not a database name"):
        server.create_database("first; DROP")


def test_the_server_hears_this_machine_only(server: Server) -> None:
    lines = "".join(path.read_text() for path in Path("/proc/net").glob("tcp*")).splitlines()
    sockets = [(address, state) for _, address, _, state, *_ in map(str.split, lines)]
    listening = "0A"
    addresses = {
        address for address, state in sockets if address.endswith(f":{server.port:04X}") and state == listening
    }
    assert addresses == {f"0100007F:{server.port:04X}"}


def test_two_of_a_kind_live_side_by_side(database: DatabaseFactory) -> None:
    first, second = database("postgresql"), database("postgresql2")
    assert urlsplit(first).port != urlsplit(second).port
    fill(first)
    fill(second)
    identifier = "SELECT system_identifier FROM pg_control_system()"
    assert run(first, identifier) != run(second, identifier)


def test_prepared_branches_are_allowed_and_go_with_their_database(postgresql: PostgreSQLServer) -> None:
    url = postgresql.create_database("prepared")
    with psycopg.connect(url, autocommit=True) as session:
        for statement in ("BEGIN", "CREATE TABLE fact ()", "PREPARE TRANSACTION 'in''doubt'"):
            session.execute(statement.encode())
    assert run(url, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()") == [("in'doubt",)]
    postgresql.drop_database("prepared")
    assert run(postgresql.url, "SELECT FROM pg_database WHERE datname = 'prepared'") == []


def test_settings_are_stronger_than_the_defaults() -> None:
    with PostgreSQLServer.start({"max_prepared_transactions": "0"}) as postgresql:
        assert run(postgresql.url, "SHOW max_prepared_transactions") == [("0",)]
    with MariaDBServer.start({"innodb_flush_log_at_trx_commit": "2"}) as mariadb:
        assert run(mariadb.url, "SELECT @@innodb_flush_log_at_trx_commit") == [(2,)]


@pytest.mark.parametrize("kind", SERVERS)
def test_a_refused_setting_shows_the_log_and_leaves_nothing(
    kind: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = processes.short_folder()
    monkeypatch.setattr("nodoubt.testing.servers.short_folder", lambda _within: folder)
    with pytest.raises(ServerFailed, match=r"no[_-]such[_-]setting"):
        kind.start({"no_such_setting": "1"})
    assert not folder.exists()


@pytest.mark.parametrize(("kind", "package"), [(PostgreSQLServer, "postgresql"), (MariaDBServer, "mariadb-server")])
def test_a_missing_program_names_its_package(
    kind: type[Server], package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(processes, "EXTRA_FOLDERS", ())
    with pytest.raises(ServerMissing, match=f"apt-get install {package}$"):
        kind.start()


STARTER = """
import sys
from nodoubt.testing.servers import MariaDBServer, PostgreSQLServer
server = {kind}.start()
{then}
print(server.folder, *map(str, [server.port]), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("then", ["", "server.pause()"], ids=["running", "paused"])
@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("end", [signal.SIGKILL, None], ids=["killed", "exits"])
def test_a_server_ends_with_the_process_that_started_it(
    kind: type[Server], then: str, end: signal.Signals | None
) -> None:
    program = STARTER.format(kind=kind.__name__, then=then)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        folder = Path(starter.stdout.readline().split()[0])
        # The keeper holds the log open to its last moment, and each of the server's processes does so too.
        members = [pid for pid in _processes() if _has_open(pid, folder / "log")]
        watched = [os.pidfd_open(pid) for pid in members]
        if end is not None:
            starter.send_signal(end)
    assert len(watched) >= 2
    for process in watched:
        assert select.select([process], [], [], 30)[0]
        os.close(process)
    assert not folder.exists()


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def _has_open(pid: int, file: Path) -> bool:
    try:
        return any(link.readlink() == file for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
