"""Runs victims, settles what they left, and checks the invariants from outside with plain SQL."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg

from nodoubt import AsyncTransactionManager, SettleReport
from nodoubt.engine.worlds import AsyncWorld
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.registry import make_node
from nodoubt.protocol.ids import parse_text, parse_xa
from nodoubt.testing.processes import await_fact, frozen
from tests import plain
from tests.crash.victim import DOMAIN, play, purge_all

#: Rounds of settling before a branch that is still in doubt counts as stuck. Each round waits for servers, not for time.
ROUNDS_MAX = 200
#: What is waited for the locks of whoever stands still; others give theirs up in milliseconds.
LOCKED_S = 0.3
#: A victim that says nothing for so long hangs.
PATIENCE_S = 60

#: A statement -> its rows.
Ask = Callable[[str], list[tuple[Any, ...]]]


@contextmanager
def connected(url: str) -> Iterator[Ask]:
    """A connection of a plain driver, outside of nodoubt."""
    parts = urlsplit(url)
    match parts.scheme:
        case "postgresql":
            with psycopg.connect(url, autocommit=True) as postgresql:

                def ask(sql: str) -> list[tuple[Any, ...]]:
                    answer = postgresql.execute(sql)
                    return list(answer.fetchall()) if answer.description else []

                yield ask
        case "mariadb":
            with closing(plain.mariadb(url)) as mariadb, mariadb.cursor() as cursor:

                def ask(sql: str) -> list[tuple[Any, ...]]:
                    cursor.execute(sql)
                    return list(cursor.fetchall())

                yield ask
        case _:
            with closing(sqlite3.connect(parts.path[1:], isolation_level=None)) as sqlite:
                yield lambda sql: sqlite.execute(sql).fetchall()


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Ask a database once."""
    with connected(url) as ask:
        return ask(sql)


def prepared(url: str, ask: Ask) -> list[str]:
    """The gids of our domain that a database still holds prepared."""
    kind = urlsplit(url).scheme
    if kind == "postgresql":
        rows = ask("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
        ids = [parse_text(row[0]) for row in rows]
    elif kind == "mariadb":
        ids = [parse_xa(data[:size].decode(), data[size:].decode()) for _, size, _, data in recovered(ask)]
    else:
        journal = Path(f"{urlsplit(url).path[1:]}-nodoubt")
        return [journal.name] if journal.exists() else []
    return [branch.gid for branch in ids if branch is not None and branch.domain == DOMAIN]


def recovered(ask: Ask) -> list[tuple[int, int, int, bytes]]:
    """What MariaDB lists: format, length of the first part of the id, length of the second, both parts."""
    return [(f, g, b, data if isinstance(data, bytes) else data.encode()) for f, g, b, data in ask("XA RECOVER")]


def ours(url: str, table: str) -> str:
    """The name of one of nodoubt's tables."""
    return f"nodoubt.{table}" if url.startswith("postgresql") else f"nodoubt_{table}"


#: Processes under test are forked from one that has imported everything.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload([__name__, "tests.crash.test_every_call"])


@dataclass
class Victim:
    """A process under test; ``said`` holds what it told so far."""

    process: ForkServerProcess
    pipe: Connection
    said: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def start(cls, target: Callable[..., None] = play, **spec: object) -> Victim:
        """Let a new process do it; it is handed its end of the pipe."""
        pipe, theirs = FORKS.Pipe()
        process = FORKS.Process(target=target, args=(theirs,), kwargs=spec)
        process.start()
        theirs.close()
        return cls(process, pipe)

    def hear(self, key: str) -> bool:
        """Read until it has said something; False if it ended first."""
        with suppress(EOFError, ConnectionError):
            while key not in self.said:
                self.said.update(self.pipe.recv())
        return key in self.said

    def go_on(self) -> None:
        """Let a paused victim continue."""
        self.pipe.send("go on")

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait_until_stopped(self) -> None:
        await_fact(lambda: frozen([self.pid]))
        assert self.process.is_alive()

    def end(self) -> int | None:
        """Wait for its end, reading what it still says; its exit code, None if it hangs."""
        if not self.pipe.closed:
            self.hear("nothing that it ever says")
            self.pipe.close()
        self.process.join(PATIENCE_S)
        return self.process.exitcode


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


def impatient(nodes: Mapping[str, str]) -> AsyncTransactionManager:
    """A settler for where locks are held by somebody who stands still until it has given up."""
    tables = {name: {"url": url, "lock_timeout_s": LOCKED_S} for name, url in nodes.items()}
    return AsyncTransactionManager.open(tables, domain=DOMAIN, settle=False)


def settle_restarted(nodes: Mapping[str, str]) -> None:
    """Settle by a new process, as after a restart."""
    victim = Victim.start(nodes=dict(nodes), end="settle", rounds=ROUNDS_MAX)
    assert victim.hear("settled")
    assert victim.end() == 0
    assert victim.said["waiting"] == 0


async def purge(nodes: Mapping[str, str]) -> None:
    """Delete all that is complete, however young: evidence too, where marking a decision complete was interrupted."""
    async with AsyncTransactionManager.open(dict(nodes), domain=DOMAIN, settle=False) as tm:
        await purge_all(tm)


class Left(NamedTuple):
    """What one transaction left on a node; of its decision, what it is and whether it is complete."""

    work: bool
    prepared: list[str]
    decision: list[tuple[Any, ...]]
    evidence: list[tuple[Any, ...]]


def left(url: str, identifier: int, gid: str) -> Left:
    """Look from outside."""
    with connected(url) as ask:
        return Left(
            work=ask(f"SELECT id FROM work WHERE id = {identifier}") != [],
            prepared=prepared(url, ask),
            decision=ask(f"SELECT decision, complete FROM {ours(url, 'decision')} WHERE gid = '{gid}'"),
            evidence=ask(f"SELECT gid FROM {ours(url, 'branch')} WHERE gid = '{gid}'"),
        )


def check(nodes: Mapping[str, str], names: Sequence[str], identifier: int, gid: str, told: str | None) -> str:
    """The invariants of one transaction; returns how it ended."""
    found = {name: left(url, identifier, gid) for name, url in nodes.items()}
    there = {name: found[name].work for name in names}
    assert len(set(there.values())) == 1, f"{gid} ended differently: {there}, told {told}"
    end = "committed" if there[names[0]] else "aborted"
    assert told in (None, "unknown", end), f"{gid} {end}, but the caller was told {told}"
    for name, node in found.items():
        assert node.prepared == [], f"{gid} left a prepared branch on {name}"
        assert [complete for decision, complete in node.decision if decision == "committed" and not complete] == [], (
            f"{gid} left an open decision on {name}"
        )
        assert node.evidence == [], f"evidence left on {name}"
    decided = [decision for node in found.values() for decision, _ in node.decision]
    assert set(decided) <= {end}, decided
    return end
