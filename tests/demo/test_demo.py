"""Short runs of the whole demo, as a user starts it, checked from outside."""

from __future__ import annotations

from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodoubt.demo import bank
from nodoubt.demo.plain import connections
from nodoubt.engine.config import load
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.testing.servers import PostgreSQLServer
from tests.commands import Ended, ended, progress, started
from tests.conftest import DatabaseFactory

MONEY_OF_A_NODE = bank.ACCOUNTS_PER_NODE * bank.OPENING_BALANCE
Nodes = dict[str, str]
#: What the demo says once its workers are at work.
AT_WORK = " transfers "


@asynccontextmanager
async def started_demo(*arguments: str, nodes: Nodes | None = None) -> AsyncIterator[Process]:
    named = ["--nodes", *(f"{name}={url}" for name, url in nodes.items())] if nodes else []
    async with started("demo", *named, *arguments) as process:
        yield process


async def demo(*arguments: str, nodes: Nodes | None = None) -> Ended:
    async with started_demo(*arguments, nodes=nodes) as process:
        return await ended(process)


def within(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def money_on(nodes: Nodes) -> int:
    """All money, by plain SQL of this test."""
    money = 0
    async with connections({name: NodeSettings(url=url) for name, url in nodes.items()}) as sessions:
        for session in sessions.values():
            ((balance,),) = await session.query(f"SELECT sum(balance) FROM {bank.ACCOUNTS}")
            money += int(balance)
    return money


async def tables_on(nodes: Nodes) -> list[str]:
    async with connections({name: NodeSettings(url=url) for name, url in nodes.items()}) as sessions:
        return [
            f"{name}: {table}"
            for name, session in sessions.items()
            for table in (bank.ACCOUNTS, bank.LEDGER, bank.RUN)
            if await session.has_table(table)
        ]


def assert_nothing_lost(run: Ended, nodes: int, kills: int) -> None:
    closing = run.json
    assert run.status == 0, (closing, run.err)
    assert closing["ok"]
    assert closing["kills"] == kills
    assert closing["kills_in_commit"] >= (kills + 1) // 2
    assert closing["settled"] > 0
    assert closing["transactions"] > 0
    assert closing["total_before"] == closing["total_after"] == nodes * MONEY_OF_A_NODE
    assert closing["in_doubt"] == closing["half_transfers"] == closing["committed_but_missing"] == 0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo makes its temporary folders."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("seed", [1, 2])
async def test_three_files_keep_every_coin_and_are_removed(folder: Path, seed: int) -> None:
    run = await demo("--seconds", "3", "--kills", "6", "--workers", "3", "--seed", str(seed), "--json")
    assert_nothing_lost(run, nodes=3, kills=6)
    assert run.json["nodes"] == {"a": "sqlite", "b": "sqlite", "c": "sqlite"}
    assert within(folder) == []


async def test_files_are_kept_when_asked_for(folder: Path) -> None:
    run = await demo("--seconds", "2", "--kills", "2", "--workers", "2", "--json", "--keep")
    assert_nothing_lost(run, nodes=3, kills=2)
    (kept,) = within(folder)
    assert str(kept / "nodoubt.toml") in "".join(run.json["look"])
    nodes = load(kept / "nodoubt.toml").nodes
    assert await money_on({name: settings.url for name, settings in nodes.items()}) == 3 * MONEY_OF_A_NODE


async def test_plain_commits_on_files_lose_money(folder: Path) -> None:
    run = await demo("--unprotected", "--seconds", "2", "--kills", "4")
    assert run.status == 1, run.err
    assert "MISSING" in run.out
    assert "plain commits" in run.out
    assert within(folder) == []


async def test_files_from_which_somebody_takes_money_are_kept(folder: Path) -> None:
    async with started_demo("--seconds", "3", "--kills", "1") as process:
        await progress(process, AT_WORK)
        (kept,) = within(folder)
        async with connections({"b": NodeSettings(url=f"sqlite:///{kept / 'b.db'}")}) as sessions:
            await sessions["b"].command(f"UPDATE {bank.ACCOUNTS} SET balance = balance - 13 WHERE id = 3")
        run = await ended(process)
    assert run.status == 1, run.err
    assert "LOST: 13 MISSING" in run.out
    assert f"nodoubt tx list --config {kept / 'nodoubt.toml'}" in run.out
    assert within(folder) == [kept]


@pytest.fixture
def two(database: DatabaseFactory) -> Nodes:
    """Two PostgreSQL nodes."""
    return {"a": database("postgresql"), "b": database("postgresql")}


@pytest.mark.parametrize("seed", [1, 2])
async def test_servers_keep_every_coin(two: Nodes, seed: int) -> None:
    arguments = ("--seconds", "3", "--kills", "6", "--workers", "3", "--seed", str(seed), "--json", "--keep")
    run = await demo(*arguments, nodes=two)
    assert_nothing_lost(run, nodes=2, kills=6)
    assert await money_on(two) == 2 * MONEY_OF_A_NODE
    # What was kept is replaced by the next one, which cleans up.
    again = await demo("--seconds", "0.5", "--kills", "1", "--json", nodes=two)
    assert_nothing_lost(again, nodes=2, kills=1)
    assert await tables_on(two) == []


async def test_different_servers_keep_every_coin(database: DatabaseFactory) -> None:
    nodes = {"a": database("postgresql"), "b": database("mariadb"), "c": database("postgresql2")}
    run = await demo("--seconds", "4", "--kills", "6", "--workers", "3", "--seed", "3", "--json", "--keep", nodes=nodes)
    assert_nothing_lost(run, nodes=3, kills=6)
    assert run.json["nodes"] == {"a": "postgresql", "b": "mariadb", "c": "postgresql"}
    assert await money_on(nodes) == 3 * MONEY_OF_A_NODE


async def test_plain_commits_lose_money(two: Nodes) -> None:
    run = await demo("--unprotected", "--seconds", "2", "--kills", "4", "--json", "--keep", nodes=two)
    closing = run.json
    assert run.status == 1
    assert not closing["ok"]
    assert closing["half_transfers"] > 0
    assert closing["total_after"] < closing["total_before"] == 2 * MONEY_OF_A_NODE
    assert await money_on(two) == closing["total_after"]


async def test_plain_commits_lose_nothing_when_nobody_dies(two: Nodes) -> None:
    run = await demo("--unprotected", "--seconds", "1", "--kills", "0", nodes=two)
    assert run.status == 0, run.err
    assert "Nothing was lost this time" in run.out


async def test_money_that_somebody_takes_meanwhile_is_lost(two: Nodes) -> None:
    async with started_demo("--seconds", "3", "--kills", "1", "--json", nodes=two) as process:
        await progress(process, AT_WORK)
        async with connections({"a": NodeSettings(url=two["a"])}) as sessions:
            await sessions["a"].command(f"UPDATE {bank.ACCOUNTS} SET balance = balance - 13 WHERE id = 3")
        run = await ended(process)
    closing = run.json
    assert run.status == 1
    assert closing["total_after"] == closing["total_before"] - 13
    assert closing["accounts_off_the_ledger"] == 1
    assert closing["in_doubt"] == 0
    assert "nodoubt tx list" in closing["look"]


async def test_an_interrupt_ends_the_run_early_and_well(two: Nodes) -> None:
    async with started_demo("--seconds", "100", "--kills", "0", "--json", nodes=two) as process:
        await progress(process, AT_WORK)
        process.send_signal(2)
        run = await ended(process)
    assert run.status == 0, run.err
    assert run.json["seconds"] < 100
    assert run.json["total_after"] == 2 * MONEY_OF_A_NODE


async def test_what_cannot_be_settled_in_time_is_named(
    database: DatabaseFactory, postgresql2: PostgreSQLServer
) -> None:
    nodes = {"a": database("postgresql"), "b": database("postgresql2")}
    async with started_demo(
        "--seconds", "2", "--kills", "0", "--settle-timeout", "1", "--json", nodes=nodes
    ) as process:
        await progress(process, AT_WORK)
        postgresql2.kill()
        run = await ended(process)
    closing = run.json
    assert run.status == 4
    assert closing["total_after"] is None
    assert closing["in_doubt"] > 0
    postgresql2.restart()
    # The next demo settles what is left, and replaces the tables when it is told to.
    refused = await demo("--seconds", "1", "--kills", "0", nodes=nodes)
    assert refused.status == 2
    assert "--replace" in refused.err
    run = await demo("--seconds", "1", "--kills", "1", "--replace", "--json", nodes=nodes)
    assert_nothing_lost(run, nodes=2, kills=1)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--kills", "-1"], 2, "--kills: -1"),
        (["--kills", "many"], 2, "--kills"),
        (["--workers", "0"], 2, "--workers: 0"),
        (["--seconds", "0"], 2, "--seconds: 0"),
        (["--seconds", "nan"], 2, "--seconds: nan"),
        (["--settle-timeout", "-1"], 2, "--settle-timeout: -1"),
        (["--nodes", "a=postgresql://127.0.0.1:1/x"], 2, "only one was named"),
        (["--nodes", "postgresql://127.0.0.1:1/x"], 2, "is not NAME=URL"),
        (["--nodes", "a=x://y", "a=x://z"], 2, "'a' is named twice"),
        (["--nodes", "a=x://y", "b=x://z"], 2, "node 'a'"),
        (["--nodes", "A=postgresql://127.0.0.1:1/x", "b=x://z"], 2, "'A'"),
        (["--nodes", "a=postgresql://127.0.0.1:1/x", "b=postgresql://127.0.0.1:1/y"], 3, "node 'a': cannot connect"),
    ],
)
async def test_what_cannot_be_run_is_refused_clearly(arguments: Sequence[str], status: int, words: str) -> None:
    run = await demo(*arguments)
    assert run.status == status
    assert words in " ".join(run.err.split())
    assert run.out == ""
    assert "Traceback" not in run.err


async def test_tables_of_strangers_stop_the_demo(two: Nodes) -> None:
    async with connections({"b": NodeSettings(url=two["b"])}) as sessions:
        await sessions["b"].command(f"CREATE TABLE {bank.ACCOUNTS} (id integer)")
    run = await demo("--replace", nodes=two)
    assert run.status == 2
    assert bank.ACCOUNTS in run.err
    assert await tables_on(two) == [f"b: {bank.ACCOUNTS}"]
