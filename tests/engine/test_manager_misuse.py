"""Managers that are opened again, used in another process or event loop, or asked for what is no time and no list."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from nodoubt import AsyncTransactionManager, ConfigError, GuardError
from tests.conftest import DatabaseFactory
from tests.engine.shops import Shop, Tx, both, scenario


@pytest.fixture
def shop(database: DatabaseFactory) -> Shop:
    return Shop("asyncpg", database)


@scenario
async def test_a_manager_that_is_opened_again_has_a_background_again(shop: Shop) -> None:
    tm = AsyncTransactionManager.open(shop.urls, domain="shop")
    for key in (1, 2):
        async with tm:
            async with Tx(tm.transaction()) as tx:
                await both(tx, key)
            assert tm._background is not None
            assert not tm._background.done()
    assert shop.keys() == {"orders": [1, 2], "stock": [1, 2]}


@scenario
async def test_a_manager_is_of_the_process_that_opened_it(sync_shop: Shop) -> None:
    def begins(said: Any) -> None:
        try:
            tm.transaction()
        except GuardError as error:
            said.put(error.message)

    fork = multiprocessing.get_context("fork")
    async with sync_shop.open() as tm:
        said = fork.SimpleQueue()
        child = fork.Process(target=begins, args=(said,))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert "opened in another process" in said.get()


@scenario
async def test_a_manager_is_of_the_event_loop_that_opened_it(shop: Shop) -> None:
    async def elsewhere() -> None:
        for use in (tm.settle, tm.in_doubt, partial(tm.run, both)):
            with pytest.raises(GuardError, match="opened in another event loop"):
                await use()
        with pytest.raises(GuardError, match="opened in another event loop"):
            tm.transaction()

    async with shop.open() as tm:
        with ThreadPoolExecutor(1) as thread:
            await asyncio.get_running_loop().run_in_executor(thread, asyncio.run, elsewhere())
        async with Tx(tm.transaction()) as tx:
            await both(tx, 1)
    assert shop.keys() == {"orders": [1], "stock": [1]}


@scenario
async def test_a_timeout_is_a_time(sync_shop: Shop) -> None:
    wrong: Sequence[Any] = (0, -1, float("nan"), "5")
    async with sync_shop.open() as tm:
        for timeout in wrong:
            with pytest.raises(ConfigError, match="is not a time"):
                tm.transaction(timeout=timeout)


@scenario
async def test_what_is_no_name_and_no_gid_is_refused_as_such(sync_shop: Shop) -> None:
    async with sync_shop.open() as tm:
        nothing: Any = None
        with pytest.raises(ConfigError, match="no node is called None"):
            async with Tx(tm.transaction()) as tx:
                await tx.on(nothing)
        with pytest.raises(ConfigError, match="None is not a gid"):
            tm.outcome(nothing)


@scenario
async def test_a_view_that_was_open_for_too_long_names_its_limit(sync_shop: Shop) -> None:
    async with sync_shop.open() as tm:
        view: Any = tm.snapshot(max_age=60)._work
        assert "larger max_age to snapshot()" in view.timed_out().hint
        transaction: Any = tm.transaction()._work
        assert "larger timeout to transaction()" in transaction.timed_out().hint


@scenario
async def test_a_text_is_no_list_of_keys_or_nodes(sync_shop: Shop) -> None:
    async with sync_shop.open() as tm:
        for wish in ("keys", "nodes", "reads"):
            with pytest.raises(ConfigError, match=f"{wish}='stock' is one name"):
                tm.transaction(isolation="serializable", **{wish: "stock"})
        for key in ("", 1):
            with pytest.raises(ConfigError, match="is no key"):
                tm.transaction(isolation="serializable", keys=[key])
