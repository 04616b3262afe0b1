"""PgBouncer before a PostgreSQL server of ours."""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from nodoubt.testing.processes import Family, account, await_fact, find, free_port, release_port, short_folder

Mode = Literal["session", "transaction", "statement"]


@contextmanager
def pooler(url: str, mode: Mode) -> Iterator[str]:
    """A pooler before the server of a URL; what it yields is the URL of the same database behind it."""
    where, port = urlsplit(url), free_port()
    folder, who = short_folder(), account("postgres")
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "ini").write_text(
        f"[databases]\n* = host={where.hostname} port={where.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {folder}/users\n"
        f"pool_mode = {mode}\ndefault_pool_size = 50\nmax_client_conn = 500\n"
    )
    for path in (folder, *folder.iterdir()):
        shutil.chown(path, who.pw_uid, who.pw_gid)
    family = Family([str(_program()), str(folder / "ini")], folder, who, folder / "log")
    try:
        await_fact(lambda: not family.running or _answers(port))
        assert family.running, (folder / "log").read_text()
        yield f"postgresql://postgres@127.0.0.1:{port}{where.path}"
    finally:
        family.end(signal.SIGTERM)
        release_port(port)
        shutil.rmtree(folder)


def _program() -> Path:
    return find("pgbouncer", package="pgbouncer")


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
