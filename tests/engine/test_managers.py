"""Both public managers, on real databases: the same promises, with and without await."""

from __future__ import annotations

import asyncio
import pickle
import threading
from typing import Any

import pytest

from nodoubt import Aborted, ConfigError, GuardError, NodeUnavailable, NodoubtError, TransactionManager
from nodoubt.protocol import messages as m
from tests.engine.shops import Shop, Tx, both, scenario, settle

NOTHING: dict[str, list[int]] = {"orders": [], "stock": []}
ONE: dict[str, list[int]] = {"orders": [1], "stock": [1]}


def crash_at(order: type[Any], error: BaseException) -> Any:
    """A watch that raises once, when an order is about to be carried out."""
    seen: list[object] = []

    def watch(kind: str, gid: str, message: object) -> None:
        if kind == "order" and isinstance(message, order) and not seen:
            seen.append(message)
            raise error

    return watch


def turns(tm: Any, name: str) -> int:
    """How many connections a node's pool has yet to give."""
    pool, count = tm.nodes[name].pool, 0
    while pool._turns.take_now():
        count += 1
    for _ in range(count):
        pool._turns.give_back()
    return count


@scenario
async def test_a_block_commits_everywhere(shop: Shop) -> None:
    async with shop.open() as tm:
        async with Tx(tm.transaction()) as tx:
            await both(tx)
        assert tx.outcome.state == "committed"
        assert tx.outcome.pending == ()
        assert shop.keys() == ONE
        assert shop.prepared() == 0
        assert (await settle(tm.outcome(tx.gid))).state == "committed"
        assert await settle(tm.in_doubt()) == []
        assert set(tm.nodes) == {"orders", "stock"}


@scenario
async def test_an_exception_rolls_back_everywhere_and_propagates(shop: Shop) -> None:
    async with shop.open() as tm:
        tx = Tx(tm.transaction())

        async def block() -> None:
            async with tx:
                await both(tx)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await block()
        assert tx.outcome.state == "aborted"
        assert shop.keys() == NOTHING


@scenario
async def test_rollback_ends_the_transaction(shop: Shop) -> None:
    async with shop.open() as tm:
        async with Tx(tm.transaction()) as tx:
            await both(tx)
            await tx.rollback()
            with pytest.raises(GuardError, match="over"):
                await tx.on("orders")
        assert tx.outcome.state == "aborted"
        assert shop.keys() == NOTHING


@scenario
async def test_one_branch_leaves_a_complete_decision(shop: Shop) -> None:
    async with shop.open() as tm:
        async with Tx(tm.transaction()) as tx:
            await tx.do("stock", "INSERT INTO t VALUES (1)")
            await tx.on("orders", read_only=True)
        row = shop.look("stock", f"SELECT decision, complete FROM nodoubt.decision WHERE gid = '{tx.gid}'")
        assert row == [("committed", True)]
        assert shop.look("orders", "SELECT count(*) FROM nodoubt.decision") == [(0,)]


@scenario
async def test_home_carries_the_decision(shop: Shop) -> None:
    async with shop.open() as tm:
        async with Tx(tm.transaction(home="stock")) as tx:
            await both(tx)
        assert shop.look("stock", f"SELECT decision FROM nodoubt.decision WHERE gid = '{tx.gid}'") == [("committed",)]
        assert shop.look("orders", "SELECT count(*) FROM nodoubt.decision") == [(0,)]


@scenario
async def test_an_unknown_node_gets_a_suggestion_and_aborts(shop: Shop) -> None:
    async with shop.open() as tm:
        tx = Tx(tm.transaction())

        async def block() -> None:
            async with tx:
                await tx.do("orders", "INSERT INTO t VALUES (1)")
                await tx.on("stok")

        with pytest.raises(ConfigError, match="did you mean 'stock'"):
            await block()
        assert tx.outcome.state == "aborted"
        assert shop.keys() == NOTHING


@pytest.mark.parametrize(
    ("statement", "kind"), [("SELECT 1/0", Aborted), ("COMMIT", GuardError), ("INSERT INTO t VALUES (1)", Aborted)]
)
@scenario
async def test_a_swallowed_error_aborts(shop: Shop, statement: str, kind: type[NodoubtError]) -> None:
    async with shop.open() as tm:
        tx = Tx(tm.transaction())

        async def block() -> None:
            async with tx:
                await both(tx)
                with pytest.raises(Exception, match=r"zero|COMMIT|duplicate"):
                    await tx.do("stock", statement)

        with pytest.raises(kind) as caught:
            await block()
        assert tx.outcome.state == "aborted"
        assert shop.keys() == NOTHING
        thawed = pickle.loads(pickle.dumps(caught.value))
        assert (type(thawed), thawed.gid, thawed.outcome, thawed.hint) == (
            kind,
            tx.gid,
            tx.outcome,
            caught.value.hint,
        )


@scenario
async def test_a_deadline_in_the_block_cuts_the_call_that_waits(shop: Shop) -> None:
    shop.look("stock", "SELECT pg_advisory_lock(1)")
    async with shop.open() as tm:
        tx = Tx(tm.transaction(timeout=0.3))

        async def block() -> None:
            async with tx:
                await both(tx)
                await tx.do("stock", "SELECT pg_advisory_xact_lock(1)")

        with pytest.raises(Aborted, match=r"not over within 0\.3 s") as caught:
            await block()
        assert caught.value.retryable
        assert caught.value.__cause__ is not None
        assert tx.outcome.state == "aborted"
        async with Tx(tm.transaction()) as following:
            await both(following)
        assert shop.keys() == ONE


@scenario
async def test_a_deadline_while_preparing_aborts(shop: Shop) -> None:
    shop.look(
        "stock",
        "CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END$$;"
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION wait_here()",
    )
    shop.look("stock", "SELECT pg_advisory_lock(1)")
    async with shop.open() as tm:
        tx = Tx(tm.transaction(timeout=0.3))
        with pytest.raises(Aborted):
            async with tx:
                await both(tx)
        assert tx.outcome.state == "aborted"
        shop.look("stock", "SELECT pg_advisory_unlock(1)")
        await settle(tm.settle(grace_s=0))
        assert shop.keys() == NOTHING
        assert shop.prepared() == 0
        assert await settle(tm.in_doubt()) == []


@pytest.mark.parametrize(
    ("failure", "tries"),
    [(NodeUnavailable("gone"), 3), (Aborted("lost a race", retryable=True), 3), (Aborted("no"), 1), (KeyError(), 1)],
)
@scenario
async def test_run_tries_again_only_what_may_be(shop: Shop, failure: Exception, tries: int) -> None:
    gids = []
    async with shop.open() as tm:
        if shop.is_async:

            async def asynchronous(tx: Any) -> None:
                gids.append(tx.gid)
                await both(Tx(tx))
                raise failure

            function: Any = asynchronous
        else:

            def function(tx: Any) -> None:
                gids.append(tx.gid)
                tx.on("orders").execute("INSERT INTO t VALUES (1)")
                raise failure

        with pytest.raises(type(failure)):
            await settle(tm.run(function))
        assert len(gids) == len(set(gids)) == tries
        assert shop.keys() == NOTHING


@pytest.mark.parametrize(("order", "keys"), [(m.Prepare, NOTHING), (m.Decide, NOTHING), (m.CommitBranch, ONE)])
@scenario
async def test_what_a_crash_leaves_is_listed_and_settled(shop: Shop, order: type[Any], keys: dict[str, Any]) -> None:
    async with shop.open(settle=False, watch=crash_at(order, RuntimeError("a bug"))) as tm:
        before = [turns(tm, name) for name in shop.urls]
        tx = Tx(tm.transaction())
        with pytest.raises(RuntimeError, match="a bug"):
            async with tx:
                await both(tx)
        assert tx.outcome.state == ("committed" if keys is ONE else "unknown")
        assert [turns(tm, name) for name in shop.urls] == before
        listed = await settle(tm.in_doubt())
        assert {doubt.gid for doubt in listed} == (set() if order is m.Prepare else {tx.gid})
        await settle(tm.settle())
        assert shop.keys() == keys
        assert shop.prepared() == 0
        assert await settle(tm.in_doubt()) == []
        assert (await settle(tm.outcome(tx.gid))).state == ("committed" if keys is ONE else "aborted")


@pytest.mark.parametrize(("code", "tries"), [("40001", 3), ("40P01", 3), ("P0001", 1)])
@scenario
async def test_run_tries_again_after_a_deadlock_but_not_after_a_mistake(shop: Shop, code: str, tries: int) -> None:
    gids = []
    fail = f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$"
    async with shop.open() as tm:
        if shop.is_async:

            async def asynchronous(tx: Any) -> None:
                gids.append(tx.gid)
                await (await tx.on("orders")).execute(fail)

            function: Any = asynchronous
        else:

            def function(tx: Any) -> None:
                gids.append(tx.gid)
                tx.on("orders").execute(fail)

        with pytest.raises(Exception, match="no"):
            await settle(tm.run(function))
        assert len(gids) == tries


@scenario
async def test_the_outcome_of_what_never_was(shop: Shop) -> None:
    async with shop.open() as tm:
        with pytest.raises(ConfigError, match="not a gid"):
            await settle(tm.outcome("nonsense"))
        assert (await settle(tm.outcome("0" * 26))).state == "unknown"


@pytest.mark.parametrize("order", [m.Prepare, m.Decide, m.CommitBranch])
@scenario
async def test_a_cancellation_never_tears_the_end(async_shop: Shop, order: type[Any]) -> None:
    task = asyncio.current_task()
    assert task is not None
    cancelled: list[object] = []

    def watch(kind: str, gid: str, message: object) -> None:
        if kind == "order" and isinstance(message, order) and not cancelled:
            cancelled.append(message)
            task.cancel()

    async with async_shop.open(watch=watch) as tm:
        tx = Tx(tm.transaction())
        with pytest.raises(asyncio.CancelledError):
            async with tx:
                await both(tx)
        task.uncancel()
        assert tx.outcome.state == "committed"
        assert async_shop.keys() == ONE
        assert async_shop.prepared() == 0


@scenario
async def test_a_cancelled_block_rolls_back(async_shop: Shop) -> None:
    async with async_shop.open() as tm:
        tx = Tx(tm.transaction())
        task = asyncio.current_task()
        assert task is not None

        async def block() -> None:
            async with tx:
                await both(tx)
                task.cancel()
                await tx.do("stock", "SELECT 1")

        with pytest.raises(asyncio.CancelledError):
            await block()
        task.uncancel()
        assert tx.outcome.state == "aborted"
        assert async_shop.keys() == NOTHING


@pytest.mark.parametrize(("order", "keys"), [(m.Decide, NOTHING), (m.CommitBranch, ONE)])
@scenario
async def test_an_interrupt_in_the_middle_of_the_end_leaves_the_truth(
    sync_shop: Shop, order: type[Any], keys: dict[str, Any]
) -> None:
    async with sync_shop.open(watch=crash_at(order, KeyboardInterrupt())) as tm:
        tx = Tx(tm.transaction())
        with pytest.raises(KeyboardInterrupt):
            async with tx:
                await both(tx)
        assert tx.outcome.state == ("committed" if keys is ONE else "unknown")
        # It was handed over: the background settles it without waiting for the grace period.
        while sync_shop.prepared():
            pass
        assert sync_shop.keys() == keys


@scenario
async def test_many_threads_share_a_manager(sync_shop: Shop) -> None:
    errors: list[BaseException] = []

    def work(tm: TransactionManager, first: int) -> None:
        try:
            for key in range(first, first + 10):
                with tm.transaction() as tx:
                    tx.on("orders").execute("INSERT INTO t VALUES (%s)", (key,))
                    tx.on("stock").execute("INSERT INTO t VALUES (%s)", (key,))
                if key == first:
                    tm.settle(grace_s=0)
        except BaseException as error:
            errors.append(error)

    async with sync_shop.open(settle_every_s=0.01, forget_every_s=0.01, grace_s=0.001) as tm:
        threads = [threading.Thread(target=work, args=(tm, 10 * number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert sync_shop.keys() == {"orders": list(range(80)), "stock": list(range(80))}
    assert sync_shop.prepared() == 0
    unfinished = "SELECT count(*) FROM nodoubt.decision WHERE NOT complete"
    assert sync_shop.look("orders", unfinished) == [(0,)]
