"""Real PostgreSQL and MariaDB servers for tests, the demo and the benchmark.

Each server lives in a temporary folder of its own, listens on a free port of 127.0.0.1 only, and can be killed,
restarted and paused, since that is what a transaction manager must survive. Linux only. This file uses the standard
library alone and knows nothing of nodoubt: the servers' own command line clients speak to them.

Who ends a server: `stop`, or leaving its `with` block, or the interpreter's exit; and should this process itself be
killed, the server's keeper (see `processes`).
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Self

from nodoubt.testing.processes import (
    Family,
    ServerMissing,
    account,
    await_fact,
    find,
    free_port,
    release_port,
    run,
    short_folder,
)

__all__ = ["MariaDBServer", "MySQLServer", "PostgreSQLServer", "Server", "ServerFailed", "ServerMissing"]

LOG_TAIL_BYTES: Final = 4000
"""How much of a server's log an error shows."""

_DATABASE_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,59}")


class ServerFailed(RuntimeError):
    """A server did not do as told within its deadline; the message ends with its log's last lines."""


class Server(ABC):
    """A running database server; `start` makes one, and `with` stops it at the end of the block.

    Attributes:
        kind: `postgresql` or `mariadb`, also the scheme of its URLs.
        port: its TCP port on 127.0.0.1, the same over restarts.
        folder: the temporary folder that holds its data, socket and log.
        url: the URL of a database that exists from the start.
    """

    kind: ClassVar[str]
    _account_wanted: ClassVar[str]
    _administrator: ClassVar[str]
    _first_database: ClassVar[str]
    _shutdown_signal: ClassVar[signal.Signals]

    def __init__(self, settings: Mapping[str, str], within: Path | None = None) -> None:
        """Prepare an empty folder; `start` is the public way to a server."""
        self._locate()
        self._settings = dict(settings)
        self._account = account(self._account_wanted)
        self._owner_pid = os.getpid()
        self._family: Family | None = None
        self.port = free_port()
        self.folder = short_folder(within)
        shutil.chown(self.folder, self._account.pw_uid, self._account.pw_gid)
        self._data = self.folder / "data"
        self._log = self.folder / "log"
        atexit.register(self.stop)

    @classmethod
    def start(cls, settings: Mapping[str, str] | None = None, *, within: Path | None = None) -> Self:
        """Create a new server and wait until it accepts connections.

        Args:
            settings: server settings by name (`{"max_connections": "50"}`), stronger than our defaults.
            within: where its folder is made, instead of the place for temporary files.

        Raises:
            ServerMissing: its programs are not installed.
            ServerFailed: it did not come up; the message shows its log.
        """
        server = cls(settings or {}, within)
        try:
            server._initialise()
            server._launch()
            server._furnish()
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def url(self) -> str:
        """The URL of the database that exists from the start."""
        return self.url_of(self._first_database)

    @property
    def running(self) -> bool:
        """Whether the server's process is alive, be it paused or not."""
        return self._family is not None and self._family.running

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that its processes have used since it was started last."""
        return self._family.cpu_s if self._family is not None else 0.0

    @property
    def pids(self) -> list[int]:
        """The ids of its processes, the main one first."""
        return self._family.pids if self._family is not None else []

    def url_of(self, database: str) -> str:
        """The URL of one of this server's databases."""
        return f"{self.kind}://{self._administrator}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Create an empty database and return its URL.

        Args:
            name: lower case letters, digits and underscores, a letter first, at most 60.

        Raises:
            ValueError: the name is not of that form.
            ServerFailed: the server refused, for example because the database exists.
        """
        self._query(f"CREATE DATABASE {_checked(name)}")
        return self.url_of(name)

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL), paused or not; return when all of its processes are gone."""
        if self._family is not None:
            self._family.kill()

    def restart(self) -> None:
        """Start again on the same folder and port, after `kill` or a clean shutdown of now; wait until it is ready."""
        self._shut_down()
        self._launch()

    def pause(self) -> None:
        """Freeze all of the server's processes (SIGSTOP): connections stay open and nothing answers."""
        if self._family is None or not self._family.running:
            raise ServerFailed(self._told("is not running, so it cannot be paused"))
        self._family.freeze()

    def resume(self) -> None:
        """Let a paused server go on; nothing happens to one that is not paused."""
        if self._family is not None:
            self._family.thaw()

    def stop(self) -> None:
        """Shut the server down and remove its folder; once is enough, more does no harm."""
        if os.getpid() != self._owner_pid:
            return  # a fork inherited our atexit list, but not the server
        atexit.unregister(self.stop)
        self._shut_down()
        release_port(self.port)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def _locate(self) -> None:
        """Find the programs, or raise ServerMissing."""

    @abstractmethod
    def _initialise(self) -> None:
        """Fill the data folder."""

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """The server's program and arguments."""

    @abstractmethod
    def _ready(self) -> bool:
        """Whether the process that we launched accepts connections now."""

    @abstractmethod
    def _query(self, *statements: str, database: str | None = None) -> str:
        """Run SQL as administrator, each statement outside any transaction; return the bare rows."""

    @abstractmethod
    def _furnish(self) -> None:
        """Bring a fresh, running server to what `url` promises."""

    def _launch(self) -> None:
        """Start the server's process and wait until it is ready."""
        try:
            self._family = family = Family(self._command(), self.folder, self._account, self._log)
            await_fact(lambda: not family.running or self._ready())
        except OSError as error:
            raise ServerFailed(self._told(f"did not become ready: {error}")) from error
        if not family.running:
            raise ServerFailed(self._told("ended while starting"))

    def _shut_down(self) -> None:
        if self._family is not None:
            self._family.end(self._shutdown_signal)

    def _run(self, *command: str | Path) -> str:
        """Run one of the server's programs as the server's account, to its end; return what it printed."""
        try:
            return run(command, self.folder, self._account)
        except subprocess.CalledProcessError as error:
            raise ServerFailed(f"{Path(command[0]).name} failed:\n{error.stdout}{error.stderr}") from error

    def _told(self, what: str) -> str:
        tail = self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace") if self._log.exists() else ""
        return f"{self.kind} server on port {self.port} {what}; its log ends:\n{tail}".rstrip()


class PostgreSQLServer(Server):
    """A PostgreSQL server whose superuser `postgres` needs no password, ready for prepared transactions.

    Each server has a cluster made by initdb (half a second). A copied template would be faster by a third of a second,
    but all copies would share one system identifier, which real servers never do.
    """

    kind = "postgresql"
    _account_wanted = "postgres"
    _administrator = "postgres"
    _first_database = "postgres"
    _shutdown_signal = signal.SIGINT  # the "fast" shutdown: open sessions are ended

    def drop_database(self, name: str) -> None:
        """Remove a database with its sessions and prepared transactions: each takes megabytes.

        Raises:
            ValueError: the name is not of the form that `create_database` takes.
            ServerFailed: the server refused.
        """
        gids = "SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts WHERE database = current_database()"
        if rollbacks := self._query(gids, database=_checked(name)).splitlines():
            self._query(*rollbacks, database=name)
        self._query(f"DROP DATABASE {name} WITH (FORCE)")

    def _locate(self) -> None:
        self._programs = find("postgres", package="postgresql").parent

    def _initialise(self) -> None:
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run(self._programs / "initdb", f"--pgdata={self._data}", *options)

    def _command(self) -> Sequence[str]:
        settings = {
            "max_prepared_transactions": "2000",
            "max_connections": "200",
            "fsync": "on",
            # Shared memory as files of the folder: nothing is left in /dev/shm after a kill.
            "dynamic_shared_memory_type": "mmap",
            **self._settings,
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self._data), *options]

    def _ready(self) -> bool:
        """Read the server's own word: postmaster.pid has its process id in line 1 and its state in line 8."""
        try:
            lines = (self._data / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        ours = self._family is not None and lines[0] == str(self._family.pid)
        return ours and len(lines) > 7 and lines[7].strip() == "ready"

    def _query(self, *statements: str, database: str | None = None) -> str:
        where = [
            f"--host={self.folder}",
            f"--port={self.port}",
            "--username=postgres",
            f"--dbname={database or 'postgres'}",
        ]
        what = [f"--command={statement}" for statement in statements]
        return self._run(self._programs / "psql", "-v", "ON_ERROR_STOP=1", "-XAtq", *where, *what)

    def _furnish(self) -> None:
        """Do nothing: initdb made the database `postgres` and its superuser."""


class MariaDBServer(Server):
    """A MariaDB server whose user `root` needs no password from 127.0.0.1, with an empty database `test`."""

    kind = "mariadb"
    _account_wanted = "mysql"
    _administrator = "root"
    _first_database = "test"
    _shutdown_signal = signal.SIGTERM

    def _locate(self) -> None:
        self._program = find("mariadbd", package="mariadb-server")
        self._installer = find("mariadb-install-db", package="mariadb-server")
        self._client = find("mariadb", package="mariadb-server")

    @property
    def _socket(self) -> Path:
        return self.folder / "socket"

    def _initialise(self) -> None:
        options = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
        # Servers that start at the same moment would take each other's temporary tables out of /tmp.
        where = [f"--datadir={self._data}", f"--tmpdir={self.folder}"]
        self._run(self._installer, "--no-defaults", *where, *options)

    def _command(self) -> Sequence[str]:
        settings = {
            "innodb-flush-log-at-trx-commit": "1",
            "max-connections": "200",
            "character-set-server": "utf8mb4",
            **{name.replace("_", "-"): value for name, value in self._settings.items()},
            "bind-address": "127.0.0.1",
            "port": str(self.port),
            "socket": str(self._socket),
            "datadir": str(self._data),
            "tmpdir": str(self.folder),
            "pid-file": str(self.folder / "pid"),
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [str(self._program), "--no-defaults", "--skip-name-resolve", *options]

    def _ready(self) -> bool:
        """Read a greeting from the socket in our folder: its fifth byte is the protocol's version, 10."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1)
                client.connect(str(self._socket))
                return client.recv(5)[4:] == b"\x0a"
        except OSError:
            return False

    def _query(self, *statements: str, database: str | None = None) -> str:
        where = [f"--socket={self._socket}", "--user=root", f"--database={database or 'mysql'}"]
        return self._run(self._client, "--no-defaults", "-BN", *where, f"--execute={'; '.join(statements)}")

    def _furnish(self) -> None:
        """Let root in over TCP, where names are not resolved, and nobody without a name."""
        self._query(
            "CREATE USER IF NOT EXISTS root@127.0.0.1",
            "GRANT ALL ON *.* TO root@127.0.0.1 WITH GRANT OPTION",
            "DELETE FROM global_priv WHERE User = ''",
            "FLUSH PRIVILEGES",
            f"CREATE DATABASE {self._first_database}",
        )


class MySQLServer(MariaDBServer):
    """A MySQL server whose user `root` needs no password from 127.0.0.1, with an empty database `test`."""

    kind = "mysql"

    def _locate(self) -> None:
        self._program = find("mysqld", package="mysql-server")
        self._client = find("mysql", package="mysql-client")

    def _initialise(self) -> None:
        # MariaDB's packages have a program of that name, too.
        if "MariaDB" in self._run(self._program, "--version"):
            raise ServerMissing(
                f"{self._program} is MariaDB, not MySQL; put the folder of MySQL's programs first in PATH"
            )
        self._run(self._program, "--no-defaults", "--initialize-insecure", f"--datadir={self._data}")

    def _command(self) -> Sequence[str]:
        # Its second protocol would listen on a fixed port, and files for the server's own use have a fixed folder.
        return [*super()._command(), "--mysqlx=OFF", "--secure-file-priv=NULL"]

    def _furnish(self) -> None:
        self._query(
            "CREATE USER root@127.0.0.1",
            "GRANT ALL ON *.* TO root@127.0.0.1 WITH GRANT OPTION",
            f"CREATE DATABASE {self._first_database}",
        )


def _checked(name: str) -> str:
    if not _DATABASE_NAME.fullmatch(name):
        raise ValueError(f"not a database name: {name!r}")
    return name
