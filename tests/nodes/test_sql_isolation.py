"""Terms and gates of the adapters of database servers, as far as no clause of the contract asks for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from nodoubt.errors import GuardError, NodeUnavailable
from nodoubt.nodes.contract import Finding, Isolation, Key, Node, Said, Terms
from nodoubt.nodes.dialect import Session
from nodoubt.nodes.mariadb import MariaDB
from nodoubt.nodes.postgresql import PostgreSQL
from nodoubt.nodes.postgresql_inspect import STANDBY
from nodoubt.nodes.postgresql_locks import advisory_locks
from nodoubt.nodes.sql import SqlNode
from nodoubt.nodes.sql_gate import GATES_MAX
from nodoubt.testing.conformance import Harness
from nodoubt.testing.servers import MariaDBServer, PostgreSQLServer
from tests.conftest import DatabaseFactory
from tests.nodes.harnesses import (
    AiomysqlHarness,
    AsyncpgHarness,
    AsyncPsycopgHarness,
    PsycopgHarness,
    PymysqlHarness,
    ServerHarness,
    SqlHarness,
)

POSTGRESQL = (AsyncpgHarness, AsyncPsycopgHarness, PsycopgHarness)
MARIADB = (AiomysqlHarness, PymysqlHarness)
SNAPSHOT = Terms(isolation=Isolation.SNAPSHOT)
#: The first 63 bits of SHA-256 of "nodoubt", the domain and the key, by another program.
DOMAIN, A, B = 6026234162917862135, 1493512897189914216, 4498645824732188613
LOCKS = Terms(isolation=Isolation.SERIALIZABLE, lock_wait_s=0.2)


@pytest.fixture(params=[*POSTGRESQL, *MARIADB])
def harness(request: pytest.FixtureRequest) -> Iterator[SqlHarness]:
    """Each driver on a database of its own."""
    kind = "mariadb" if request.param in MARIADB else "postgresql"
    database: DatabaseFactory = request.getfixturevalue("database")
    server: PostgreSQLServer | MariaDBServer = request.getfixturevalue(kind)
    harness: ServerHarness = request.param(database("mariadb" if kind == "mariadb" else "postgresql"), server)
    yield cast(SqlHarness, harness)
    harness.close()


async def installed(h: SqlHarness, **settings: float) -> SqlNode:
    node = h.node()
    await node.install()
    await h.make_table()
    return cast(SqlNode, await h.opened(**settings))


def test_writers_get_in_between_two_openers(harness: SqlHarness) -> None:
    """Whoever waits to decide comes before the opener that came after him."""

    async def story(h: SqlHarness) -> None:
        node, other = await installed(h), await h.opened()
        watcher = await h.begin(other, read_only=True)
        decider_id = h.id(branch=0)
        decider = await h.wrote(node, branch_id=decider_id, home=True)
        first = await h.close_gate(node)
        found: list[set[str]] = []

        async def wait_for(waiting: int) -> None:
            async def ask() -> int:
                return await waiters(h, watcher.connection)

            await h.until(ask, lambda count: count == waiting)

        async def decide() -> None:
            assert (await decider.decide({})).said is Said.YES

        async def open_second() -> None:
            await wait_for(1)
            second = await h.close_gate(other)
            found.append(await second.committed([decider_id.gid]))
            await second.reopen()

        async def reopen_first() -> None:
            await wait_for(2)
            await first.reopen()

        await h.world.together([decide(), open_second(), reopen_first()])
        assert found == [{decider_id.gid}]
        await h.close_nodes()

    harness.run(story(harness))


async def waiters(h: SqlHarness, connection: object) -> int:
    """How many sessions wait for a lock of the gate."""
    if isinstance(h, MARIADB):
        sql = (
            "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE()"
            " AND (state LIKE 'Waiting%lock' OR state = 'User lock')"
        )
    else:
        sql = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'nodoubt.node'::regclass"
    ((count,),) = await h.execute(connection, sql)
    return int(count)


@pytest.mark.parametrize("harness", MARIADB, indirect=True)
def test_what_is_found_behind_a_gate_is_forced_to_disk(harness: SqlHarness) -> None:
    """Whoever acts on it must not be contradicted by a crash: the server shows a commit before it is on disk."""

    async def story(h: SqlHarness) -> None:
        node = await installed(h)
        branch_id = h.id(branch=0)
        decider = await h.wrote(node, branch_id=branch_id, home=True)
        assert (await decider.decide({1: "there"})).said is Said.YES
        gate = await h.close_gate(node)
        assert await gate.committed([branch_id.gid]) == {branch_id.gid}
        await gate.reopen()
        look = await h.begin(node, read_only=True)
        # A write to what was read, since the log is forced as a whole, and only for who writes.
        sql = f"SELECT probes FROM nodoubt_decision WHERE gid = '{branch_id.gid}'"
        assert [tuple(row) for row in await h.execute(look.connection, sql)] == [(1,)]
        await h.close_nodes()

    harness.run(story(harness))


def test_gates_that_are_closed_cost_recovery_no_session(harness: SqlHarness) -> None:
    """A process keeps a few closed at once; the next one is told soon, and recovery goes on."""

    async def story(h: SqlHarness) -> None:
        node = await installed(h, acquire_timeout_s=0.1)
        shared = 1 if node.capabilities.exclusive_gate else GATES_MAX
        gates = [await h.close_gate(node) for _ in range(shared)]
        with pytest.raises(NodeUnavailable) as full:
            await node.close_gate(0.1)
        assert full.value.retryable
        assert (await node.prepared()).ours == ()
        assert await node.decisions([h.gid()]) == {}
        for gate in gates:
            await gate.reopen()
        with pytest.raises(NodeUnavailable):
            await gates[0].reopen()
        await h.close_nodes()

    harness.run(story(harness))


def test_a_decision_by_a_persons_order_passes_the_gate(harness: SqlHarness) -> None:
    async def story(h: SqlHarness) -> None:
        node, gid = await installed(h), h.gid()
        gate = await h.close_gate(await h.opened())
        said, waited = await h.beside(node.resolve(gid, commit=True, reason="seen"), gate.reopen())
        assert (said.value, waited) == ("committed", True)
        await h.close_nodes()

    harness.run(story(harness))


def test_a_lock_that_was_waited_for_in_vain_is_named(harness: SqlHarness) -> None:
    async def story(h: SqlHarness) -> None:
        node = await installed(h)
        keys = (Key(name="stock/7"),)
        holder = await h.wrote(node, terms=LOCKS)
        mine = Terms(isolation=Isolation.SERIALIZABLE, keys=keys, lock_wait_s=0.2)
        if not isinstance(h, MARIADB):
            with pytest.raises(NodeUnavailable, match=r"waiting for the locks of 'stock/7' up to 0.2 s") as vain:
                await h.begin(node, terms=mine)
            assert vain.value.retryable
        await holder.roll_back(prepared=False)
        await (await h.wrote(node, terms=mine)).roll_back(prepared=False)
        await h.close_nodes()

    harness.run(story(harness))


def test_a_block_cannot_weaken_its_snapshot(harness: SqlHarness) -> None:
    async def story(h: SqlHarness) -> None:
        node = await installed(h)
        for text in (
            ["SET SESSION innodb_snapshot_isolation = OFF", "SET @a = 1, @@innodb_snapshot_isolation = 0"]
            if isinstance(h, MARIADB)
            else [
                "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
                "SET LOCAL transaction_isolation = 'read committed'",
            ]
        ):
            branch = await h.begin(node, terms=SNAPSHOT)
            with pytest.raises(GuardError if isinstance(h, MARIADB) else Exception):
                await h.execute(branch.connection, text)
            if not isinstance(h, MARIADB):
                assert (await branch.prepare()).said is Said.NO
            else:
                assert branch.misuse is not None
                await branch.roll_back(prepared=False)
        await h.close_nodes()

    harness.run(story(harness))


def test_atomic_branches_are_begun_by_the_texts_they_always_were() -> None:
    """Also on a session that served other terms, after what sets it back."""
    branch, session = Harness.id(cast(Harness, None), gid="g" * 26), cast(Session, SimpleNamespace(tuning=""))
    postgresql, mariadb = PostgreSQL(), MariaDB()
    for read_only in (False, True):
        begin = mariadb.begin(branch, read_only=read_only)
        assert mariadb.begin_on(session, branch, read_only=read_only, terms=Terms()) == begin
        mariadb.begin_on(session, branch, read_only=False, terms=Terms(isolation=Isolation.SNAPSHOT, lock_wait_s=0.5))
        assert session.tuning
        back = mariadb.begin_on(session, branch, read_only=read_only, terms=Terms())
        assert back.endswith(f"=@nodoubt_lock_wait_timeout;{begin}")
        assert not session.tuning
        begin = postgresql.begin(branch, read_only=read_only)
        assert postgresql.begin_on(session, branch, read_only=read_only, terms=Terms()) == begin


def test_the_numbers_of_locks_never_change() -> None:
    """Programs of different versions must meet at one lock; no domain meets another, nor a key that is named like one."""
    assert advisory_locks("shop", ()) == f"SELECT pg_advisory_xact_lock({DOMAIN})"
    assert advisory_locks("shop", (Key(name="a", shared=True), Key(name="b"))) == (
        f"SELECT pg_advisory_xact_lock_shared({DOMAIN});"
        f"SELECT pg_advisory_xact_lock_shared({A});SELECT pg_advisory_xact_lock({B})"
    )
    assert str(DOMAIN) not in advisory_locks("sho", (Key(name="p"), Key(name="")))


@pytest.mark.parametrize("read_only", [False, True])
def test_what_a_server_cannot_give_is_refused(read_only: bool) -> None:
    def refused(dialect: PostgreSQL | MariaDB, findings: Sequence[Finding] = ()) -> list[str]:
        return [level for level in Isolation if dialect.refusal(findings, level, read_only=read_only)]

    lagging = Finding(check="durable", level="error", text="it is a standby", fact=STANDBY)
    assert refused(PostgreSQL()) == []
    assert refused(PostgreSQL(), [lagging]) == ["snapshot", "serializable"]
    old, new = MariaDB(), MariaDB()
    new.snapshot_isolation = True
    assert refused(new) == []
    assert refused(old) == ([] if read_only else ["snapshot"])


def test_a_node_that_is_open_says_what_it_refuses(harness: SqlHarness) -> None:
    async def story(h: SqlHarness) -> None:
        node: Node = await installed(h)
        assert [node.refusal(level, read_only=False) for level in Isolation] == ["", "", ""]
        await h.close_nodes()

    harness.run(story(harness))
