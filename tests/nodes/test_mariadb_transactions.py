"""Whole transactions over PostgreSQL and MariaDB, with either as home, by the public manager."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pymysql
import pytest

from nodoubt import TransactionManager
from nodoubt.engine.asynchronous import AsyncTransaction, AsyncTransactionManager
from nodoubt.engine.worlds import AsyncWorld
from nodoubt.errors import Aborted
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.mariadb import MariaDB
from nodoubt.nodes.mariadb_attached import TOKEN_LENGTH
from nodoubt.nodes.registry import make_node
from tests.conftest import DatabaseFactory
from tests.nodes.mariadb_side import TABLE, Outsider

HOMES = pytest.mark.parametrize("home", ["orders", "stock"])


@pytest.fixture
async def urls(database: DatabaseFactory) -> dict[str, str]:
    """Two installed nodes with a table ``item`` each."""
    urls = {"orders": database("postgresql"), "stock": database("mariadb")}
    for name, url in urls.items():
        await make_node(name, "shop", NodeSettings(url=url), AsyncWorld(), asynchronous=True).install()
    see = Outsider(urls["stock"])
    see(TABLE)
    see.close()
    connection = await asyncpg.connect(urls["orders"])
    await connection.execute(TABLE.partition("ENGINE")[0])
    await connection.close()
    return urls


def manage(urls: dict[str, str]) -> AsyncTransactionManager:
    return AsyncTransactionManager.open(urls, domain="shop", settle=False)


@pytest.fixture
async def manager(urls: dict[str, str]) -> AsyncIterator[AsyncTransactionManager]:
    async with manage(urls) as tm:
        yield tm


async def run(connection: Any, sql: str, *arguments: Any) -> list[Any]:
    async with connection.cursor() as cursor:
        await cursor.execute(sql, arguments)
        return list(await cursor.fetchall())


async def work(tm: AsyncTransactionManager, home: str, number: int) -> str:
    async with tm.transaction(home=home) as tx:
        orders, stock = await tx.on("orders"), await tx.on("stock")
        await orders.execute("INSERT INTO item VALUES ($1, 1)", number)
        await run(stock, "INSERT INTO item VALUES (%s, 1)", number)
    assert tx.outcome.state == "committed"
    assert tx.outcome.pending == ()
    return tx.gid


async def ids(tm: AsyncTransactionManager) -> tuple[list[int], list[int]]:
    async with tm.transaction() as tx:
        orders, stock = await tx.on("orders", read_only=True), await tx.on("stock", read_only=True)
        left = [row["id"] for row in await orders.fetch("SELECT id FROM item ORDER BY id")]
        right = [number for (number,) in await run(stock, "SELECT id FROM item ORDER BY id")]
    return left, right


@HOMES
async def test_commits_in_both(manager: AsyncTransactionManager, home: str) -> None:
    gid = await work(manager, home, 1)
    assert await ids(manager) == ([1], [1])
    assert (await manager.outcome(gid)).state == "committed"
    assert await manager.in_doubt() == []


async def test_one_node_alone(manager: AsyncTransactionManager) -> None:
    async with manager.transaction() as tx:
        await run(await tx.on("stock"), "INSERT INTO item VALUES (1, 1)")
    assert (await manager.outcome(tx.gid)).state == "committed"
    assert await ids(manager) == ([], [1])


@HOMES
@pytest.mark.parametrize("swallow", [False, True])
async def test_a_failure_undoes_both(manager: AsyncTransactionManager, home: str, swallow: bool) -> None:
    await work(manager, home, 1)

    async def clash() -> None:
        async with manager.transaction(home=home) as tx:
            orders, stock = await tx.on("orders"), await tx.on("stock")
            await orders.execute("INSERT INTO item VALUES (2, 1)")
            await run(stock, "INSERT INTO item VALUES (2, 1)")
            try:
                await run(stock, "INSERT INTO item VALUES (1, 1)")
            except Exception:
                if not swallow:
                    raise

    # A block that swallows the error does not commit the rest.
    with pytest.raises(Aborted if swallow else Exception, match="Duplicate entry"):
        await clash()
    assert await ids(manager) == ([1], [1])


@HOMES
async def test_session_killed_after_the_decision(
    manager: AsyncTransactionManager, home: str, urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A branch on MariaDB is then finished by another session, within the same commit."""
    killed: list[int] = []
    original = MariaDB.finish

    def finish(self: MariaDB, branch: Any, *, commit: bool) -> str:
        if not killed:
            see = Outsider(urls["stock"])
            ((owner,),) = see(f"SELECT IS_USED_LOCK('nodoubt:{branch.session[:TOKEN_LENGTH]}')")
            see(f"KILL {owner}")
            see.close()
            killed.append(owner)
        return original(self, branch, commit=commit)

    monkeypatch.setattr(MariaDB, "finish", finish)
    await work(manager, home, 1)
    assert await ids(manager) == ([1], [1])
    assert len(killed) == (home == "orders")


@HOMES
@pytest.mark.parametrize("decided", [False, True])
async def test_another_manager_settles(
    manager: AsyncTransactionManager, home: str, urls: dict[str, str], monkeypatch: pytest.MonkeyPatch, decided: bool
) -> None:
    """The owner lives on with an open connection, but does nothing more: before its decision, or after it."""
    frozen = manager.engine.begin(home=home)
    orders, stock = await frozen.on("orders"), await frozen.on("stock")
    await orders.execute("INSERT INTO item VALUES (1, 1)")
    await run(stock, "INSERT INTO item VALUES (1, 1)")
    branches = dict(zip(("orders", "stock"), frozen._branches, strict=True))
    away = "stock" if home == "orders" else "orders"
    assert (await branches[away].prepare()).said == "yes"
    if decided:
        number = list(branches).index(away)
        assert (await branches[home].decide({number: away})).said == "yes"
    async with manage(urls) as other:
        report = await other.settle(grace_s=0)
        assert (report.committed, report.rolled_back) == ((1, 0) if decided else (0, 1))
        assert report.unreachable == {}
        if not decided:
            # The late owner collides with the tombstone.
            assert (await branches[home].decide({})).said == "conflict"
        assert await ids(other) == (([1], [1]) if decided else ([], []))
        assert await other.in_doubt() == []
    for branch in branches.values():
        branch.abandon()


@pytest.mark.parametrize(("number", "tries"), [(1213, 3), (1020, 3), (1062, 1)])
async def test_run_goes_by_the_servers_number_of_an_error(
    manager: AsyncTransactionManager, number: int, tries: int
) -> None:
    """The driver's errors carry a sqlstate besides, which says nothing of a snapshot conflict (1020)."""
    tried: list[str] = []

    async def function(tx: AsyncTransaction) -> None:
        tried.append(tx.gid)
        await run(await tx.on("stock"), f"SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = {number}")

    with pytest.raises(pymysql.MySQLError):
        await manager.run(function)
    assert len(tried) == tries


def test_a_signal_between_a_text_and_its_answer_leaves_no_answer_for_the_next(
    urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        monkeypatch.undo()
        raise ZeroDivisionError

    def insert(tm: TransactionManager) -> None:
        with tm.transaction() as tx, tx.on("stock").cursor() as cursor:
            monkeypatch.setattr(pymysql.connections.Connection, "_read_query_result", interrupted)
            cursor.execute("INSERT INTO item VALUES (1, 1)")

    nodes = {"orders": urls["orders"], "stock": {"url": urls["stock"], "pool_size": 1}}
    with TransactionManager.open(nodes, domain="shop", settle=False) as tm:
        with pytest.raises(ZeroDivisionError):
            insert(tm)
        with tm.transaction() as tx, tx.on("stock").cursor() as cursor:
            cursor.execute("SELECT 4711")
            assert cursor.fetchone() == (4711,)
            cursor.execute("SELECT count(*) FROM item")
            assert cursor.fetchone() == (0,)
