"""Runs victims, settles what they left, and checks the invariants from outside with plain SQL."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pymysql

from nodoubt import AsyncTransactionManager, SettleReport
from nodoubt.engine.worlds import AsyncWorld
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.registry import make_node
from nodoubt.protocol.ids import parse_text, parse_xa
from tests.crash.victim import purge_all

DOMAIN = "crash"
#: Rounds of settling before a branch that is still in doubt counts as stuck. Each round waits for servers, not for time.
ROUNDS_MAX = 200
#: A victim that says nothing for so long hangs.
PATIENCE_S = 60


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Ask a database by a plain driver, outside of nodoubt."""
    parts = urlsplit(url)
    match parts.scheme:
        case "postgresql":
            with psycopg.connect(url, autocommit=True) as postgresql:
                answer = postgresql.execute(sql)
                return list(answer.fetchall()) if answer.description else []
        case "mariadb":
            address: dict[str, Any] = {
                "host": parts.hostname,
                "port": parts.port,
                "user": parts.username,
                "database": parts.path[1:],
            }
            with closing(pymysql.connect(**address, autocommit=True)) as mariadb, mariadb.cursor() as cursor:
                cursor.execute(sql)
                return list(cursor.fetchall())
        case _:
            with closing(sqlite3.connect(parts.path[1:], isolation_level=None)) as sqlite:
                return sqlite.execute(sql).fetchall()


def prepared(url: str) -> list[str]:
    """The gids of our domain that a database still holds prepared."""
    kind = urlsplit(url).scheme
    if kind == "postgresql":
        ids = [
            parse_text(row[0])
            for row in query(url, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
        ]
    elif kind == "mariadb":
        ids = [parse_xa(data[:size].decode(), data[size:].decode()) for _, size, _, data in recovered(url)]
    else:
        journal = Path(f"{urlsplit(url).path[1:]}-nodoubt")
        return [journal.name] if journal.exists() else []
    return [branch.gid for branch in ids if branch is not None and branch.domain == DOMAIN]


def recovered(url: str) -> list[tuple[int, int, int, bytes]]:
    """What MariaDB lists: format, length of the first part of the id, length of the second, both parts."""
    rows = query(url, "XA RECOVER")
    return [(f, g, b, data if isinstance(data, bytes) else data.encode()) for f, g, b, data in rows]


def ours(url: str, table: str) -> str:
    """The name of one of nodoubt's tables."""
    return f"nodoubt.{table}" if url.startswith("postgresql") else f"nodoubt_{table}"


@dataclass
class Victim:
    """A process under test; ``said`` holds what it printed so far."""

    process: subprocess.Popen[str]
    said: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def start(cls, **spec: object) -> Victim:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.victim", json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return cls(process)

    def hear(self, key: str) -> bool:
        """Read until it has said something; False if it ended first."""
        assert self.process.stdout is not None
        if self.process.stdout.closed:
            return key in self.said
        while key not in self.said:
            line = self.process.stdout.readline()
            if not line:
                return False
            self.said.update(json.loads(line))
        return True

    def go_on(self) -> None:
        """Let a paused victim continue."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def wait_until_stopped(self) -> None:
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), status

    def end(self) -> int:
        """Wait for its end, reading what it still says."""
        self.hear("nothing that it ever says")
        code = self.process.wait(PATIENCE_S)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        return code


async def install(nodes: Mapping[str, str]) -> None:
    """Make nodoubt's tables and the one that victims write to."""
    world = AsyncWorld()
    for name, url in nodes.items():
        await make_node(name, DOMAIN, NodeSettings(url=url), world, asynchronous=True).install()
        query(url, "CREATE TABLE work (id integer PRIMARY KEY)")


async def settle(nodes: Mapping[str, str], managers: int = 1) -> list[SettleReport]:
    """Settle from this process, by several managers at once if told to, until nothing is left."""

    async def one() -> SettleReport:
        async with AsyncTransactionManager.open(dict(nodes), domain=DOMAIN, settle=False) as tm:
            for _ in range(ROUNDS_MAX):
                report = await tm.settle(grace_s=0)
                if not report.waiting and not report.unreachable:
                    return report
            raise AssertionError(f"still in doubt: {report}")

    return await asyncio.gather(*(one() for _ in range(managers)))


def settle_restarted(nodes: Mapping[str, str]) -> None:
    """Settle by a new process, as after a restart."""
    victim = Victim.start(nodes=dict(nodes), domain=DOMAIN, end="settle", rounds=ROUNDS_MAX)
    assert victim.hear("settled")
    assert victim.end() == 0
    assert victim.said["waiting"] == 0


async def purge(nodes: Mapping[str, str]) -> None:
    """Delete all that is complete, however young: evidence too, where marking a decision complete was interrupted."""
    async with AsyncTransactionManager.open(dict(nodes), domain=DOMAIN, settle=False) as tm:
        await purge_all(tm)


def check(nodes: Mapping[str, str], names: Sequence[str], identifier: int, gid: str, told: str | None) -> str:
    """The invariants of one transaction; returns how it ended."""
    there = {name: query(nodes[name], f"SELECT id FROM work WHERE id = {identifier}") != [] for name in names}
    assert len(set(there.values())) == 1, f"{gid} ended differently: {there}, told {told}"
    end = "committed" if there[names[0]] else "aborted"
    assert told in (None, "unknown", end), f"{gid} {end}, but the caller was told {told}"
    for name, url in nodes.items():
        assert prepared(url) == [], f"{gid} left a prepared branch on {name}"
        left = f"SELECT gid FROM {ours(url, 'decision')} WHERE gid = '{gid}' AND decision = 'committed'"
        assert query(url, f"{left} AND NOT complete") == [], f"{gid} left an open decision on {name}"
        assert query(url, f"SELECT gid FROM {ours(url, 'branch')} WHERE gid = '{gid}'") == [], (
            f"evidence left on {name}"
        )
    decided = [
        query(url, f"SELECT decision FROM {ours(url, 'decision')} WHERE gid = '{gid}'") for url in nodes.values()
    ]
    assert {row[0][0] for row in decided if row} <= {end}, decided
    return end
