"""The proxy in front of real servers: what arrives, what comes back, and what is there afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import psycopg
import pymysql
import pytest

from nodoubt.nodes.mariadb import MariaDB
from nodoubt.nodes.postgresql import PostgreSQL
from nodoubt.protocol.ids import BranchId, new_gid
from nodoubt.testing.processes import await_fact
from nodoubt.testing.proxy import Proxy
from nodoubt.testing.proxy_faults import Arrives, Fault, Schedule, Statement, Then, recognise
from nodoubt.testing.proxy_wire import WIRES
from tests import plain
from tests.conftest import DatabaseFactory

ID = BranchId(domain="lab", gid=new_gid(1_700_000_000_000, bytes(10)), branch=1, home="here", session="a1b2c3d4")


def driver(url: str) -> Any:
    """A driver's connection, which knows nothing of nodoubt."""
    if url.startswith("postgresql:"):
        return psycopg.connect(url, autocommit=True)
    return plain.mariadb(url, client_flag=pymysql.constants.CLIENT.MULTI_STATEMENTS)


def run(connection: Any, sql: str) -> list[Any]:
    """Run a text of one or several statements, with all of its answers."""
    with connection.cursor() as cursor:
        cursor.execute(sql)
        while cursor.nextset():
            pass
        return list(cursor.fetchall()) if cursor.description else []


def ask(url: str, sql: str) -> list[Any]:
    with closing(driver(url)) as connection:
        return run(connection, sql)


class Place:
    """A database, a branch in it that is about to be prepared, and what can be seen from beside the proxy."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_mariadb = url.startswith("mariadb")
        self.ask("CREATE TABLE work (id integer PRIMARY KEY)")
        self.name = f"b{uuid4().hex}"  # the lists are the whole server's, other tests' branches among them
        xa = f"'{self.name}'"
        self.begin = f"XA START {xa}" if self.is_mariadb else "BEGIN"
        self.prepare = f"XA END {xa};XA PREPARE {xa}" if self.is_mariadb else f"PREPARE TRANSACTION {xa}"
        self.commit = f"XA COMMIT {xa}" if self.is_mariadb else f"COMMIT PREPARED {xa}"
        self.list = "XA RECOVER" if self.is_mariadb else "SELECT gid FROM pg_prepared_xacts"

    def ask(self, sql: str) -> list[Any]:
        return ask(self.url, sql)

    @property
    def prepared(self) -> int:
        return sum(self.name in str(row[-1]) for row in self.ask(self.list))

    @property
    def is_open(self) -> bool:
        """Whether any session beside the one that asks is connected."""
        if self.is_mariadb:
            return len(self.ask("SELECT 1 FROM information_schema.processlist WHERE db = DATABASE()")) > 1
        return bool(
            self.ask("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        )


@pytest.fixture(params=["postgresql", "mariadb"])
def place(request: pytest.FixtureRequest, database: DatabaseFactory) -> Iterator[Place]:
    here = Place(database(request.param))
    yield here
    if here.prepared:
        await_fact(lambda: not here.is_open)
        here.ask(here.commit)


def fault(arrives: Arrives, then: Then, statement: Statement = Statement.PREPARE, number: int = 1) -> Schedule:
    return Schedule((Fault(statement=statement, number=number, arrives=arrives, then=then),))


def work(connection: Any, place: Place) -> None:
    run(connection, place.begin)
    run(connection, "INSERT INTO work VALUES (1)")


def test_without_faults_nothing_changes(place: Place) -> None:
    with Proxy(place.url) as proxy, closing(driver(proxy.url)) as connection:
        work(connection, place)
        run(connection, place.prepare)
        assert place.prepared == 1
        run(connection, place.commit)
        assert run(connection, f"SELECT id, '{'x' * 300_000}' FROM work") == [(1, "x" * 300_000)]
        assert proxy.struck == ()


@pytest.mark.parametrize("arrives", Arrives)
def test_cut(place: Place, arrives: Arrives) -> None:
    schedule = fault(arrives, Then.CUT)
    with Proxy(place.url, schedule) as proxy, closing(driver(proxy.url)) as connection:
        work(connection, place)
        with pytest.raises((psycopg.OperationalError, pymysql.OperationalError)):
            run(connection, place.prepare)
        assert place.prepared == (arrives in (Arrives.ALL, Arrives.TWICE))
        await_fact(lambda: not place.is_open)
        assert proxy.struck == schedule.faults
        assert ask(proxy.url, "SELECT 1") == [(1,)], "another connection is none of its business"


def test_a_fault_waits_for_the_reply_to_the_last_statement_of_a_request(place: Place) -> None:
    rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900) SELECT i FROM n"
    schedule = fault(Arrives.ALL, Then.CUT, Statement.COMMIT)
    with Proxy(place.url, schedule) as proxy, closing(driver(proxy.url)) as connection:
        with pytest.raises((psycopg.OperationalError, pymysql.OperationalError)):
            run(connection, f"COMMIT;SELECT '', {'1,' * 300} NULL;INSERT INTO work {rows}")
        assert place.ask("SELECT count(*) FROM work") == [(900,)]


def packets(*bodies: bytes) -> bytes:
    return b"".join(len(body).to_bytes(3, "little") + b"\1" + body for body in bodies)


MORE, LAST = b"\x0a\0", b"\x02\0"
ROWS = (b"\1", b"\3def", b"\xfe\0\0" + MORE, b"\0", b"\xfc\x01\0x", b"\xfe\0\0")


@pytest.mark.parametrize(
    ("scheme", "reply"),
    [
        ("postgresql", b"C\0\0\0\x0bCOMMIT\0Z\0\0\0\5I"),
        ("mariadb", packets(b"\0\0\0" + LAST + b"\0\0")),
        ("mariadb", packets(b"\xff\x15\x04#42000no")),
        ("mariadb", packets(b"\0\xfc\xff\x08\xfe" + b"\x08" * 8 + MORE, b"\0\0\0" + LAST)),
        ("mariadb", packets(*ROWS[:-1], ROWS[-1] + LAST)),
        ("mariadb", packets(*ROWS[:-1], ROWS[-1] + MORE, b"\0\0\0" + MORE, b"\xff\x15\x04#42000no")),
        ("mysql", packets(*ROWS[:-2], b"\xff\x15\x04#42000no")),
    ],
)
def test_a_reply_is_whole_with_its_last_byte(scheme: str, reply: bytes) -> None:
    assert [WIRES[scheme].is_whole(reply[:size]) for size in range(len(reply) + 1)] == [False] * len(reply) + [True]


@pytest.mark.parametrize("arrives", Arrives)
def test_half_open(place: Place, arrives: Arrives) -> None:
    """Neither side learns: the client goes away unnoticed by the server, and the server unnoticed by the client."""
    with Proxy(place.url, fault(arrives, Then.STALL)) as proxy:
        client = forked(proxy.url, place)
        proxy.wait()
        assert place.prepared == (arrives in (Arrives.ALL, Arrives.TWICE))
        assert os.waitpid(client, os.WNOHANG) == (0, 0), "it still waits for its answer"
        os.kill(client, 9)
        os.waitpid(client, 0)
        assert place.is_open
    await_fact(lambda: not place.is_open)


@pytest.mark.parametrize("arrives", [Arrives.NOTHING, Arrives.HALF])
def test_a_delayed_request_arrives_after_its_sender_is_gone(place: Place, arrives: Arrives) -> None:
    with Proxy(place.url, fault(arrives, Then.DELAY)) as proxy:
        client = forked(proxy.url, place)
        proxy.wait()
        os.kill(client, 9)
        os.waitpid(client, 0)
        assert place.prepared == 0
        with pytest.raises(TimeoutError, match="1 connections"):
            proxy.wait_idle(timeout_s=0)
        proxy.release()
        proxy.wait_idle()
        assert place.prepared == 1


@pytest.mark.parametrize("arrives", [Arrives.NOTHING, Arrives.HALF, Arrives.ALL])
def test_a_delayed_answer_comes_when_released(place: Place, arrives: Arrives) -> None:
    with Proxy(place.url, fault(arrives, Then.DELAY)) as proxy:
        client = forked(proxy.url, place)
        proxy.wait()
        assert place.prepared == (arrives is Arrives.ALL)
        proxy.release()
        assert os.waitpid(client, 0) == (client, 0), "the sender was answered"
        assert place.prepared == 1


def forked(url: str, place: Place) -> int:
    """A process that works and prepares; its status is 0 when that was answered."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            connection = driver(url)
            work(connection, place)
            run(connection, place.prepare)
            status = 0
        finally:
            os._exit(status)
    return pid


def test_requests_are_counted_over_all_connections(place: Place) -> None:
    schedule = fault(Arrives.NOTHING, Then.CUT, Statement.COMMIT, number=3)
    with Proxy(place.url, schedule) as proxy:
        for _ in range(2):
            with closing(driver(proxy.url)) as connection:
                run(connection, "COMMIT")
        with (
            closing(driver(proxy.url)) as connection,
            pytest.raises((psycopg.OperationalError, pymysql.OperationalError)),
        ):
            run(connection, "COMMIT")
        assert proxy.struck == schedule.faults


def test_a_statement_of_postgresql_is_recognised_when_it_runs_not_when_it_is_parsed(database: DatabaseFactory) -> None:
    schedule = fault(Arrives.NOTHING, Then.CUT, Statement.COMMIT, number=3)
    with Proxy(database("postgresql"), schedule) as proxy, closing(driver(proxy.url)) as connection:
        connection.execute("COMMIT", prepare=True)
        connection.execute("COMMIT", prepare=True)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("COMMIT", prepare=True)


def test_a_server_that_is_gone_ends_its_connections(database: DatabaseFactory, postgresql: Any) -> None:
    with Proxy(database("postgresql")) as proxy, closing(driver(proxy.url)) as connection:
        postgresql.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            driver(proxy.url)


def test_a_fault_that_does_not_come_is_named(database: DatabaseFactory) -> None:
    with Proxy(database("postgresql")) as proxy, pytest.raises(TimeoutError, match="1 faults were expected"):
        proxy.wait(timeout_s=0)


POSTGRESQL, MARIADB = PostgreSQL(), MariaDB()


@pytest.mark.parametrize("dialect", [POSTGRESQL, MARIADB], ids=["postgresql", "mariadb"])
def test_the_texts_of_nodoubt_are_recognised(dialect: PostgreSQL | MariaDB) -> None:
    texts = {
        dialect.prepare(ID): Statement.PREPARE,
        dialect.decide(ID, {1: "there"}): Statement.DECIDE,
        dialect.finish(ID, commit=True): Statement.COMMIT_BRANCH,
        dialect.finish(ID, commit=False): Statement.ROLLBACK_BRANCH,
        dialect.complete([ID.gid]): Statement.COMPLETE,
        dialect.close_gate(1.0, 2.0): Statement.CLOSE_GATE,
        dialect.reopen_gate(): Statement.OPEN_GATE if isinstance(dialect, MariaDB) else Statement.COMMIT,
        dialect.begin(ID, read_only=False): None,
        dialect.drop_evidence([ID.gid]): None,
        "INSERT INTO work VALUES (1)": None,
        "INSERT INTO nodoubt_decision (gid, decision) VALUES ('', 'aborted');ROLLBACK": None,
    }
    assert {text: recognise(text.encode()) for text in texts} == texts


def test_the_definition_of_a_decision_is_none() -> None:
    assert (
        recognise(b"PREPARE nodoubt_decide(text) AS INSERT INTO nodoubt.decision (gid) VALUES ($1, 'committed')")
        is None
    )
    assert recognise(b"INSERT INTO nodoubt.decision (gid, decision) VALUES ($1, 'committed')") is Statement.DECIDE


def test_a_seed_draws_one_schedule() -> None:
    drawn = Schedule.drawn(7, rate=0.1, requests=200)
    assert Schedule.drawn(7, rate=0.1, requests=200) == drawn
    assert Schedule.drawn(8, rate=0.1, requests=200) != drawn
    assert {fault.statement for fault in drawn.faults} == set(Statement)
    alone = Schedule.drawn(7, rate=0.1, requests=200, statements=[Statement.DECIDE])
    assert alone.faults == tuple(fault for fault in drawn.faults if fault.statement is Statement.DECIDE)
    assert Schedule.drawn(7, rate=0, requests=200).faults == ()
    assert len(Schedule.drawn(7, rate=1, requests=200).faults) == 200 * len(Statement)


def test_nobody_can_read_two_replies() -> None:
    with pytest.raises(ValueError, match="answered twice"):
        Fault(statement=Statement.PREPARE, arrives=Arrives.TWICE, then=Then.DELAY)
