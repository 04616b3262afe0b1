"""What is left behind by its block: openings of other tasks, statements, nested errors, forks, databases that were swapped."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from nodoubt import (
    Aborted,
    AsyncTransaction,
    AsyncTransactionManager,
    ConfigError,
    GuardError,
    HeuristicOutcome,
    NodeUnavailable,
    NodoubtError,
    Outcome,
)
from nodoubt.engine.config import load
from nodoubt.engine.instant import Instant
from nodoubt.engine.worlds import AsyncWorld
from nodoubt.nodes.registry import make_node
from nodoubt.protocol import messages as m
from tests.conftest import DatabaseFactory
from tests.engine.shops import Shop, Tx, both, scenario, settle
from tests.engine.stage import Stage, looking, seen, told


@pytest.fixture
def asyncpg_shop(database: DatabaseFactory) -> Shop:
    return Shop("asyncpg", database)


# Openings


@scenario
async def test_what_another_task_opens_after_its_block_is_given_back(async_shop: Shop) -> None:
    """Of ``gather(tx.on(a), tx.on(b))`` one failed: nobody waits for the other one any more."""
    async with async_shop.open(settle=False) as tm:
        openings: list[asyncio.Task[Any]] = []

        def opening(tx: AsyncTransaction) -> asyncio.Task[Any]:
            openings.append(asyncio.create_task(tx.on("stock")))
            return openings[-1]

        for _ in range(tm.nodes["stock"]._settings.pool_size + 1):
            with pytest.raises(ConfigError, match="typo"):
                async with tm.transaction() as tx:
                    await asyncio.gather(tx.on("typo"), opening(tx))
            assert tx.outcome.state == "aborted"
        async with Tx(tm.transaction()) as last:
            await both(last)
        await asyncio.wait(openings)
        idle = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
        )
        assert async_shop.look("stock", idle) == [(0,)]


@scenario
async def test_a_block_that_does_not_wait_for_an_opening_is_told_so(async_shop: Shop) -> None:
    async with async_shop.open(settle=False) as tm:
        openings: list[asyncio.Task[Any]] = []
        begun = asyncio.Event()

        async def block() -> None:
            async with tm.transaction() as tx:
                await (await tx.on("orders")).execute("INSERT INTO t VALUES (1)")
                openings.append(asyncio.create_task(_beginning(tx, "stock", begun)))
                await begun.wait()

        with pytest.raises(GuardError, match="'stock' is being opened by another task") as told:
            await block()
        assert told.value.outcome is not None
        assert told.value.outcome.state == "aborted"
        with pytest.raises(GuardError, match="over"):
            await openings[0]
        assert async_shop.keys() == {"orders": [], "stock": []}


async def _beginning(tx: Any, name: str, begun: asyncio.Event) -> Any:
    """Ask for a connection, and tell when it was asked for."""
    asyncio.get_running_loop().call_soon(begun.set)
    return await tx.on(name)


@scenario
async def test_a_transaction_that_was_not_entered_opens_nothing(shop: Shop) -> None:
    async with shop.open(settle=False) as tm:
        with pytest.raises(GuardError, match="was not entered"):
            await settle(tm.transaction().on("orders"))


async def test_who_waits_for_an_opening_that_was_torn_opens_for_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    """In threads a signal may end it; whoever it opened for must not take itself for opened."""
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    real, there, take = Instant.open, asyncio.Event(), engine.openings._turns.take
    waiting: list[float] = []

    async def counted(wait_s: float) -> bool:
        waiting.append(wait_s)
        if len(waiting) == 2:
            there.set()
        return await take(wait_s)

    async def torn(self: Instant, locks: Any, openers: Any) -> None:
        monkeypatch.setattr(Instant, "open", real)
        assert len(openers) == 2
        raise ZeroDivisionError

    monkeypatch.setattr(Instant, "open", torn)
    assert await take(0)
    monkeypatch.setattr(engine.openings._turns, "take", counted)
    first = asyncio.create_task(looking(engine))
    second = asyncio.create_task(looking(engine))
    await there.wait()
    engine.openings._turns.give_back()
    with pytest.raises(ZeroDivisionError):
        await first
    view = await second
    work = await stage.write(await stage.process())
    assert await told(work) == "committed"
    assert await seen(view) == {None}


# Home that waits for its first statement


@pytest.mark.parametrize("is_opened", [False, True])
@scenario
async def test_home_is_in_a_transaction_before_anybody_prepares(shop: Shop, is_opened: bool) -> None:
    """Else its server would not end it while this process is stopped, and it would decide when its tombstone was purged."""
    states: list[Any] = []

    def watch(kind: str, gid: str, message: object) -> None:
        if kind == "order" and isinstance(message, m.Prepare):
            mine = "datname = current_database() AND pid <> pg_backend_pid()"
            states.extend(shop.look("orders", f"SELECT state FROM pg_stat_activity WHERE {mine}"))

    async with shop.open(settle=False, watch=watch) as tm:
        async with Tx(tm.transaction(home="orders")) as tx:
            if is_opened:
                await tx.on("orders")
            await tx.do("stock", "INSERT INTO t VALUES (1)")
        assert tx.outcome.state == "committed"
    assert ("idle in transaction",) in states


# Statements


@scenario
async def test_a_prepared_statement_is_dead_when_the_block_ends(asyncpg_shop: Shop) -> None:
    """Between PREPARE TRANSACTION and the end its session is in no transaction: it would write for good."""
    statement: Any = None
    errors: list[object] = []

    async def write_late() -> None:
        try:
            await statement.fetch(7)
        except Exception as error:
            errors.append(error)

    class Late:
        done: asyncio.Task[None] | None = None

        def __call__(self, kind: str, gid: str, message: object) -> None:
            if kind == "fact" and isinstance(message, m.Prepared):
                self.done = asyncio.get_running_loop().create_task(write_late())

    late = Late()
    async with asyncpg_shop.open(settle=False, watch=late) as tm:
        async with Tx(tm.transaction()) as tx:
            await tx.do("orders", "INSERT INTO t VALUES (1)")
            statement = await (await tx.on("stock")).prepare("INSERT INTO t VALUES ($1)")
            await statement.fetch(1)
        assert late.done is not None
        await late.done
    assert [type(error).__name__ for error in errors] == ["InterfaceError"]
    assert asyncpg_shop.keys() == {"orders": [1], "stock": [1]}


# Errors


@scenario
async def test_an_error_of_an_inner_transaction_tells_of_that_one(shop: Shop) -> None:
    inner = HeuristicOutcome("told", gid="inner", outcome=Outcome(state="committed", strays=("stock",)))
    own = NodeUnavailable("told")
    async with shop.open(settle=False) as tm:
        for error in (inner, own):
            with suppress(NodoubtError):
                async with Tx(tm.transaction()) as tx:
                    await both(tx)
                    raise error
    assert inner.outcome == Outcome(state="committed", strays=("stock",))
    assert own.outcome is not None
    assert own.outcome.state == "aborted"


@scenario
async def test_a_view_that_is_too_old_is_told_as_such(sync_shop: Shop) -> None:
    async with sync_shop.open(settle=False) as tm:
        with pytest.raises(Aborted, match="not over within"), tm.snapshot("orders", max_age=0.1) as view:
            view.on("orders").execute("SELECT pg_sleep(5)")


@scenario
async def test_an_outcome_names_those_who_were_finished_by_hand(shop: Shop) -> None:
    async with shop.open(settle=False) as tm:
        for end in ("COMMIT", "ROLLBACK"):
            gid = await _finished_by_hand(shop, tm, end)
            outcome = await settle(tm.outcome(gid))
            assert (outcome.state, outcome.pending, outcome.strays) == (
                "aborted" if end == "COMMIT" else "committed",
                (),
                ("stock",),
            )


async def _finished_by_hand(shop: Shop, tm: Any, end: str) -> str:
    """A transaction whose branch on stock somebody finishes when it is prepared, against what is decided then."""

    def act(kind: str, gid: str, message: object) -> None:
        if kind == "order" and isinstance(message, m.Decide):
            for (name,) in shop.look("stock", "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"):
                shop.look("stock", f"{end} PREPARED '{name}'")
            if end == "COMMIT":
                shop.look("orders", f"INSERT INTO nodoubt.decision (gid, decision) VALUES ('{gid}', 'aborted')")

    tx: Any = None
    tm.engine.watch = act
    try:
        with suppress(NodoubtError):
            async with Tx(tm.transaction()) as tx:
                await both(tx, key=1 if end == "COMMIT" else 2)
    finally:
        tm.engine.watch = None
    gid: str = tx.gid
    return gid


@scenario
async def test_a_statement_that_still_runs_at_the_end_of_its_block_is_no_commit(async_shop: Shop) -> None:
    """How it ends nobody would hear of, and home would be committed behind it."""
    late: list[asyncio.Task[Any]] = []

    async def block(tx: Any) -> None:
        async with tx:
            await (await tx.on("stock")).execute("INSERT INTO t VALUES (1)")
            orders = await tx.on("orders")
            await orders.execute("INSERT INTO t VALUES (1)")
            late.append(asyncio.create_task(orders.execute("SELECT pg_sleep(0.5)")))
            # Begun before this one is answered.
            await (await tx.on("stock")).execute("SELECT 1")

    async with async_shop.open(settle=False) as tm:
        with pytest.raises(GuardError, match="a statement is still running on node 'orders'"):
            await block(tm.transaction(home="orders"))
        await asyncio.gather(*late, return_exceptions=True)
    assert async_shop.keys() == {"orders": [], "stock": []}


@pytest.mark.parametrize("how", ["executemany", "fetchmany", "a generator that raises"])
@scenario
async def test_what_asyncpg_rolls_back_by_itself_is_not_ours(asyncpg_shop: Shop, how: str) -> None:
    """For arguments that it cannot encode it undoes the transaction that it believes to be its own: ours, then, and what came
    next was committed by itself."""

    def arguments() -> Iterator[tuple[Any]]:
        yield (2,)
        if how.startswith("a generator"):
            raise ZeroDivisionError
        yield (3,)
        yield ("no number",)

    async def block(tx: Any) -> None:
        async with tx:
            await (await tx.on("orders")).execute("INSERT INTO t VALUES (1)")
            stock = await tx.on("stock")
            many = stock.fetchmany if how == "fetchmany" else stock.executemany
            with suppress(ZeroDivisionError, asyncpg.DataError):
                await many("INSERT INTO t VALUES ($1)", arguments())
            with suppress(asyncpg.InFailedSQLTransactionError):
                await stock.execute("INSERT INTO t VALUES (9)")

    async with asyncpg_shop.open(settle=False) as tm:
        with pytest.raises(Aborted, match="a statement had failed on node 'stock'"):
            await block(tm.transaction(home="orders"))
    assert asyncpg_shop.keys() == {"orders": [], "stock": []}


@scenario
async def test_a_rule_that_was_broken_dooms_although_the_block_goes_on(async_shop: Shop) -> None:
    async def block(tx: Any) -> None:
        async with tx:
            await (await tx.on("orders")).execute("INSERT INTO t VALUES (1)")
            await tx.on("stock", read_only=True)
            with suppress(GuardError):
                await tx.on("stock")

    async with async_shop.open(settle=False) as tm:
        with pytest.raises(GuardError, match="'stock' was opened read-only"):
            await block(tm.transaction())
    assert async_shop.keys() == {"orders": [], "stock": []}


async def test_who_blocks_the_loop_beyond_the_deadline_commits_nothing(database: DatabaseFactory) -> None:
    """No alarm rings meanwhile: apsw, for one, does not let the loop run."""
    config = load({"a": database("sqlite")}, domain="late", settle=False)
    await make_node("a", "late", config.nodes["a"], AsyncWorld(), asynchronous=True).install()

    async def block(tx: Any) -> None:
        async with tx:
            (await tx.on("a")).execute("CREATE TABLE late (k)")
            began = time.monotonic()
            while time.monotonic() < began + 0.2:
                pass

    async with AsyncTransactionManager(config) as tm:
        with pytest.raises(Aborted, match=r"was not over within 0\.1 s"):
            await block(late := tm.transaction(timeout=0.1))
        assert late.outcome.state == "aborted"


# Forks, and databases that were swapped


@scenario
async def test_a_forked_child_asks_and_closes_nothing(sync_shop: Shop) -> None:
    """Whatever it sent would be read, or answered, as its parent's."""

    def child(said: Any, tm: Any, gid: str) -> None:
        for step in (lambda: tm.outcome(gid), tm.in_doubt, tm.settle):
            try:
                step()
            except GuardError as error:
                said.put("opened in another process" in error.message)
        tm.__exit__(None, None, None)

    fork = multiprocessing.get_context("fork")
    async with sync_shop.open() as tm:
        async with Tx(tm.transaction()) as tx:
            await both(tx)
        said = fork.SimpleQueue()
        process = fork.Process(target=child, args=(said, tm, tx.gid))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert [said.get() for _ in range(3)] == [True, True, True]
        assert tm.outcome(tx.gid).state == "committed"


@scenario
async def test_a_name_that_leads_to_another_database_by_now_is_noticed(shop: Shop) -> None:
    async with shop.open(settle=False) as tm:
        async with Tx(tm.transaction()) as tx:
            await both(tx)
        shop.look("stock", "UPDATE nodoubt.node SET id = 'restored'")
        tm.nodes["stock"].pool.forget_idle()
        with pytest.raises(ConfigError, match="leads to another database than when the node was opened"):
            async with Tx(tm.transaction()) as tx:
                await tx.on("stock")
