"""A standby of a PostgreSQL server of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from nodoubt.testing.processes import await_fact
from nodoubt.testing.servers import PostgreSQLServer
from tests.conftest import in_memory


@contextmanager
def synchronous_standby(primary: PostgreSQLServer) -> Iterator[PostgreSQLServer]:
    """From now on the primary answers no commit that the standby has not on its disk."""

    class Standby(PostgreSQLServer):
        def _initialise(self) -> None:
            source = ["--host=127.0.0.1", f"--port={primary.port}", "--username=postgres", "--checkpoint=fast"]
            self._run(self._programs / "pg_basebackup", f"--pgdata={self._data}", "--write-recovery-conf", *source)

        def _ready(self) -> bool:
            try:
                return "standby" in (self._data / "postmaster.pid").read_text().split() or super()._ready()
            except FileNotFoundError:
                return False

    with Standby.start(within=in_memory()) as standby, psycopg.connect(primary.url, autocommit=True) as line:
        line.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        line.execute("SELECT pg_reload_conf()")
        await_fact(lambda: line.execute("SELECT sync_state FROM pg_stat_replication").fetchall() == [("sync",)])
        line.close()
        yield standby


def promote(standby: PostgreSQLServer) -> None:
    """It is the primary when this returns."""
    with psycopg.connect(standby.url, autocommit=True) as line:
        assert line.execute("SELECT pg_promote()").fetchone() == (True,)
