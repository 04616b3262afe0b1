"""The real side: servers that are asked by a session of the test's own who waits, who is gone, and what is there."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import aiomysql
import asyncpg
import psycopg

from nodoubt.engine.worlds import AsyncWorld
from nodoubt.nodes import asyncpg_driver
from nodoubt.nodes.aiomysql_driver import AiomysqlDriver
from nodoubt.nodes.asyncpg_driver import AsyncpgDriver
from nodoubt.nodes.dialect import Dialect, Driver, NodeSettings, Row, Session
from nodoubt.nodes.mariadb import MariaDB
from nodoubt.nodes.mariadb_drivers import understand
from nodoubt.nodes.mariadb_tables import SIGN
from nodoubt.nodes.postgresql import PostgreSQL
from nodoubt.protocol.ids import token
from nodoubt.sim.workload import ACCOUNTS, BALANCE, LISTS
from nodoubt.testing.servers import Server
from tests.fidelity.actor import DOMAIN, Actor
from tests.fidelity.names import Names
from tests.fidelity.play import Side
from tests.nodes.mariadb_side import Outsider

#: Whoever waits for so long has been looked at for deadlocks.
WAITS_S = 0.04
#: Whoever is seen to wait for so long behind somebody else's step was not let go on by it.
LET_GO_S = 0.1
#: A step that neither ends nor waits by then hangs.
STEP_S_MAX = 30.0
#: How often the server is asked.
LOOK_S = 0.005
DEADLOCK_TIMEOUT = "5ms"


class Laboratory:
    """A real server with one database, which serves one script after another."""

    kind: ClassVar[str]
    node: ClassVar[type[Dialect]]
    driver: ClassVar[Driver]
    tables: ClassVar[Sequence[str]]
    #: What a script may have left in them.
    emptied: ClassVar[Sequence[str]]

    def __init__(self, server: Server, url: str) -> None:
        self.server = server
        self.url = url
        self.loop = asyncio.Runner()
        self.connect()
        self.loop.run(self._install())
        for text in self.tables:
            self.ask(text)

    async def _install(self) -> None:
        session = await self.driver.connect(NodeSettings(url=self.url))
        await self.node().install(session, "home", DOMAIN, "1234567890")
        await session.close()

    def reset(self) -> None:
        """As it was before the first script."""
        for text in self.emptied:
            self.ask(text)
        for key in LISTS:
            self.ask(f"INSERT INTO list VALUES ('{key}', '')")
        for key in ACCOUNTS:
            self.ask(f"INSERT INTO account VALUES ('{key}', {BALANCE})")

    def restart(self) -> None:
        self.disconnect()
        self.server.kill()
        self.server.restart()
        self.connect()

    def close(self) -> None:
        self.disconnect()
        self.loop.close()

    @abstractmethod
    def connect(self) -> None:
        """Open the session that asks."""

    @abstractmethod
    def disconnect(self) -> None:
        """Close it."""

    @abstractmethod
    def ask(self, sql: str) -> Sequence[Row]:
        """Ask the server."""

    @abstractmethod
    def number(self, session: Session) -> int:
        """By what the server calls a session."""

    @abstractmethod
    def waiting(self) -> set[int]:
        """The sessions that wait for locks, and have done so for a moment."""

    @abstractmethod
    def alive(self) -> set[int]:
        """The sessions that there are."""

    @abstractmethod
    def end(self, number: int) -> None:
        """End a session."""

    @abstractmethod
    def prepared(self) -> Mapping[str, str]:
        """The texts that roll each prepared branch back, by its name."""

    @abstractmethod
    def decisions(self) -> Sequence[Row]:
        """Decisions as the simulated servers keep them, without times."""

    @abstractmethod
    async def work(self, connection: Any, session: Session, sql: str, values: Sequence[Any]) -> Sequence[Row]:
        """Run a statement of the workload."""


class PostgreSQLLaboratory(Laboratory):
    """PostgreSQL by asyncpg."""

    kind = "postgresql"
    node = PostgreSQL
    driver = AsyncpgDriver()
    tables = (
        f"DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = ''{DEADLOCK_TIMEOUT}''',"
        " current_database()); END$$",
        "CREATE TABLE list (id text PRIMARY KEY, items text NOT NULL)",
        "CREATE TABLE account (id text PRIMARY KEY, balance int NOT NULL CONSTRAINT balance CHECK (balance >= 0))",
    )
    emptied = ("TRUNCATE nodoubt.decision, nodoubt.branch, list, account",)

    def connect(self) -> None:
        self._outside = psycopg.connect(self.url, autocommit=True)

    def disconnect(self) -> None:
        self._outside.close()

    def ask(self, sql: str) -> Sequence[Row]:
        answer = self._outside.execute(sql.encode())
        return answer.fetchall() if answer.description else []

    def number(self, session: Session) -> int:
        return int(session.handle.split()[0])

    def waiting(self) -> set[int]:
        return self._pids(
            f"pg_locks WHERE NOT granted AND waitstart < clock_timestamp() - make_interval(secs => {WAITS_S})"
        )

    def alive(self) -> set[int]:
        return self._pids("pg_stat_activity")

    def _pids(self, where: str) -> set[int]:
        return {pid for (pid,) in self.ask(f"SELECT pid FROM {where}")}

    def end(self, number: int) -> None:
        self.ask(f"SELECT pg_terminate_backend({number})")

    def prepared(self) -> Mapping[str, str]:
        rows = self.ask("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
        return {gid: f"ROLLBACK PREPARED '{gid}'" for (gid,) in rows}

    def decisions(self) -> Sequence[Row]:
        return self.ask("SELECT gid, decision, participants, complete, reason FROM nodoubt.decision")

    async def work(self, connection: Any, session: Any, sql: str, values: Sequence[Any]) -> Sequence[Row]:
        try:
            return [tuple(row) for row in await connection.fetch(sql, *values)]
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise asyncpg_driver._explain(error, session._raw) from error


class MariaDBLaboratory(Laboratory):
    """MariaDB by aiomysql."""

    kind = "mariadb"
    node = MariaDB
    driver = AiomysqlDriver()
    tables = (
        "CREATE TABLE list (id VARCHAR(9) PRIMARY KEY, items TEXT NOT NULL) ENGINE=InnoDB",
        "CREATE TABLE account (id VARCHAR(9) PRIMARY KEY, balance INT NOT NULL, CONSTRAINT balance CHECK (balance >= 0))",
    )
    emptied = (
        *(f"DELETE FROM {table}" for table in ("nodoubt_decision", "list", "account")),
        f"DELETE FROM nodoubt_branch WHERE gid < '{SIGN}'",
    )

    def connect(self) -> None:
        self._outside = Outsider(self.url)

    def disconnect(self) -> None:
        self._outside.close()

    def ask(self, sql: str) -> Sequence[Row]:
        return self._outside(sql)

    def number(self, session: Any) -> int:
        return int(session._raw.thread_id())

    def waiting(self) -> set[int]:
        # The tables of information_schema are a tenth of a second old; this is not.
        ((_, _, status),) = self.ask("SHOW ENGINE INNODB STATUS")
        found = set()
        for text in status.split("---TRANSACTION ")[1:]:
            waits = re.search(r"HAS BEEN WAITING (\d+) us", text)
            thread = re.search(r"MariaDB thread id (\d+)", text)
            if waits and thread and int(waits[1]) > WAITS_S * 1_000_000:
                found.add(int(thread[1]))
        return found | {
            int(number)
            for number, waited_ms in self.ask(
                "SELECT id, time_ms FROM information_schema.processlist"
                " WHERE state IN ('User lock', 'Waiting for table metadata lock')"
            )
            if waited_ms > WAITS_S * 1000
        }

    def alive(self) -> set[int]:
        return {int(number) for (number,) in self.ask("SELECT id FROM information_schema.processlist")}

    def end(self, number: int) -> None:
        self.ask(f"KILL {number}")

    def prepared(self) -> Mapping[str, str]:
        found = {}
        for form, gtrid_length, _, data in self.ask("XA RECOVER"):
            gtrid, bqual = data[:gtrid_length].decode(), data[gtrid_length:].decode()
            # Other tests may have left something on the server.
            if f".{DOMAIN}." in gtrid:
                found[gtrid] = f"XA ROLLBACK '{gtrid}','{bqual}',{form}"
        return found

    def decisions(self) -> Sequence[Row]:
        rows = self.ask("SELECT gid, decision, participants, complete, reason, probes FROM nodoubt_decision")
        return [(*row[:3], bool(row[3]), *row[4:]) for row in rows]

    async def work(self, connection: Any, session: Session, sql: str, values: Sequence[Any]) -> Sequence[Row]:
        try:
            async with connection.cursor() as cursor:
                await cursor.execute(sql, values)
                return list(await cursor.fetchall())
        except (aiomysql.MySQLError, OSError) as error:
            raise understand(error, from_driver=isinstance(error, aiomysql.MySQLError)) from error


class RealSide(Side):
    """One script on a real server."""

    def __init__(self, laboratory: Laboratory) -> None:
        laboratory.reset()
        world = AsyncWorld()
        self._laboratory = laboratory
        self._world = world
        self._loop = laboratory.loop.get_loop()
        self.names = Names(world.unix_ms(), world.random)
        self.dialect = laboratory.node()
        self._sessions: list[Session] = []
        self._ended: list[Session] = []

    def party(self, name: str) -> Actor:
        return Actor(name, self.dialect, self.names, self.connect, self.work)

    async def connect(self, settings: NodeSettings) -> Session:
        session = await self._laboratory.driver.connect(replace(settings, url=self._laboratory.url))
        session.token = token(self._world.random(5))
        self._sessions.append(session)
        return session

    async def work(self, connection: Any, session: Session, sql: str, values: Sequence[Any]) -> Sequence[Row]:
        return await self._laboratory.work(connection, session, sql, values)

    def launch(self, step: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._loop.create_task(step)

    def settle(self, working: Mapping[asyncio.Task[None], Actor], leaving: Collection[Session]) -> None:
        laboratory = self._laboratory
        left = {laboratory.number(session) for session in leaving}
        seen_waiting_s: list[float] = []

        def is_settled() -> bool:
            at_work = [actor.handle for task, actor in working.items() if not task.done()]
            if not at_work and not left:
                return True
            # In this order: whoever is gone lets others go on before he is gone.
            left.intersection_update(laboratory.alive())
            waiting = laboratory.waiting()
            if not (left <= waiting and all(session and laboratory.number(session) in waiting for session in at_work)):
                seen_waiting_s.clear()
                return False
            # Who was let go on just now waits, by the server's books, until his thread runs again.
            seen_waiting_s.append(time.monotonic())
            return seen_waiting_s[-1] - seen_waiting_s[0] >= LET_GO_S

        self._until(is_settled, working)

    def finish(self, tasks: Collection[asyncio.Task[None]]) -> None:
        self._until(lambda: all(task.done() for task in tasks), tasks)

    def end(self, session: Session) -> None:
        number = self._laboratory.number(session)
        if number in self._laboratory.alive():
            self._laboratory.end(number)
        self.await_gone(session)

    def await_gone(self, session: Session) -> None:
        number = self._laboratory.number(session)
        self._until(lambda: number not in self._laboratory.alive())

    def restart(self) -> None:
        self._laboratory.restart()
        # Their numbers are given to others now.
        self._ended, self._sessions = [*self._ended, *self._sessions], []

    def close(self) -> None:
        for session in self._sessions:
            self.end(session)
        self._laboratory.loop.run(self._abandon_all())
        for roll_back in self._laboratory.prepared().values():
            self._laboratory.ask(roll_back)

    async def _abandon_all(self) -> None:
        for session in (*self._ended, *self._sessions):
            session.abandon()

    def _until(self, fact: Callable[[], bool], tasks: Collection[asyncio.Task[None]] = ()) -> None:
        """Ask again and again; meanwhile the loop reads what was answered."""
        end = time.monotonic() + STEP_S_MAX
        while not fact():
            self._laboratory.loop.run(_some_time([task for task in tasks if not task.done()]))
            assert time.monotonic() < end, "the server neither answers nor says that the session waits"

    def tables(self) -> list[str]:
        ask, plain = self._laboratory.ask, self.names.plain
        ours = "nodoubt.branch" if self._laboratory.kind == "postgresql" else "nodoubt_branch"
        evidence = ask(f"SELECT gid, branch FROM {ours} WHERE gid < '{SIGN}'")
        prepared = self._laboratory.prepared()
        known = self.names.known.items()
        return [
            *[f"list {key} {items}" for key, items in ask("SELECT id, items FROM list ORDER BY id")],
            *[f"account {key} {balance}" for key, balance in ask("SELECT id, balance FROM account ORDER BY id")],
            *[
                f"decision {plain(gid)} {[plain(value) for value in row]}"
                for gid, *row in sorted(self._laboratory.decisions())
            ],
            *[f"branch {plain(gid)} {branch}" for gid, branch in sorted(evidence)],
            *sorted(f"prepared {next(name for gid, name in known if gid in text)}" for text in prepared),
        ]


async def _some_time(tasks: Collection[asyncio.Task[None]]) -> None:
    """Until one of them is done, or it is time to ask again."""
    if tasks:
        await asyncio.wait(tasks, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
    else:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await asyncio.Event().wait()


LABORATORIES: Mapping[str, type[Laboratory]] = {
    "postgresql": PostgreSQLLaboratory,
    "mariadb": MariaDBLaboratory,
    "mariadb_log": MariaDBLaboratory,
}
