"""Short runs of the whole torture, as a user starts it."""

from __future__ import annotations

import gzip
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from nodoubt.demo.plain import connections
from nodoubt.judge import Level, judge
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.torture.jobs import LISTS
from tests.commands import ended, progress, started
from tests.conftest import DatabaseFactory


async def torture(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Its exit code, closing object and standard error."""
    async with started("torture", "--json", *arguments) as process:
        run = await ended(process)
    return run.status, run.json, run.err


async def test_every_fault_on_servers_of_its_own_ends_clean(tmp_path: Path) -> None:
    page, history = tmp_path / "torture.html", tmp_path / "history.jsonl.gz"
    status, closing, err = await torture(
        "--seconds", "20", "--seed", "1", "--report", str(page), "--history", str(history)
    )
    assert (status, closing["wrong"], closing["in_doubt"], closing["failure"]) == (0, [], [], ""), err
    assert closing["committed"] > 200
    happened = closing["faults_by_kind"]
    assert happened["worker-kill"] >= 5, closing
    assert happened["server-kill"] == happened["server-pause"] == 1
    assert happened["network"] > 0
    assert set(happened) | set(closing["faults_off"]) == {
        *("worker-kill", "worker-pause", "network"),
        *("server-kill", "server-pause", "disk-full", "sync-error"),
    }
    assert closing["settled"] > 0
    # The files say the same to somebody who was not there.
    with gzip.open(history, "rt") as lines:
        header, *ops = map(json.loads, lines)
    assert "seed 1" in header["name"]
    verdict = judge(ops)
    assert verdict.ok > 100
    assert verdict.holds(Level.READ_COMMITTED)
    text = page.read_text("utf-8")
    assert "CLEAN" in text
    assert closing["again"] in text
    assert "src=" not in text
    assert "href=" not in text
    assert text.count("<rect") == closing["faults"]


@pytest.mark.parametrize(
    ("isolation", "promised"),
    [
        ("snapshot", {"the history": Level.STRONG_SNAPSHOT_ISOLATION}),
        (
            "serializable",
            {"the history": Level.STRONG_SNAPSHOT_ISOLATION, "the transactions": Level.STRICT_SERIALIZABLE},
        ),
    ],
)
async def test_each_level_keeps_what_it_promises_under_faults(isolation: str, promised: dict[str, Level]) -> None:
    status, closing, err = await torture(
        *("--isolation", isolation, "--seconds", "15", "--seed", "5"),
        *("--faults", "worker-kill,worker-pause,network,server-kill"),
    )
    assert (status, closing["wrong"], closing["in_doubt"], closing["failure"]) == (0, [], [], ""), err
    judged = {part["of"]: part for part in closing["judged"]}
    appends = {"the appends, the views and the last read": Level.STRICT_SERIALIZABLE}
    assert {of: part["promised"] for of, part in judged.items()} == promised | appends
    for part in judged.values():
        assert part["promised"] in part["holds"]
        assert part["transactions"] > 30, closing
    assert f"--isolation {isolation}" in closing["again"]


async def test_plain_commits_are_convicted() -> None:
    status, closing, err = await torture(
        *("--seconds", "10", "--seed", "2", "--unprotected", "--own", "postgresql,postgresql"),
        *("--faults", "worker-kill,network"),
    )
    assert status == 1, err
    assert not closing["protected"]
    # What goes wrong first depends on where the faults strike: halves, or what was told to be aborted and is there.
    assert closing["wrong"], closing
    assert not closing["failure"]


async def test_an_interrupt_ends_it_early_and_well() -> None:
    own = ("--own", "postgresql,mariadb-log,sqlite", "--faults", "worker-kill,server-kill,server-pause")
    async with started("torture", "--json", "--seconds", "1000", "--seed", "4", *own) as process:
        await progress(process, " committed ")
        process.send_signal(signal.SIGINT)
        run = await ended(process)
    assert (run.status, run.json["wrong"], run.json["failure"]) == (0, [], ""), run.err
    assert run.json["seconds"] < 1000


async def test_named_databases_are_left_as_they_were(database: DatabaseFactory) -> None:
    nodes = {"a": database("postgresql"), "b": database("mariadb"), "c": database("sqlite")}
    named = [f"{name}={url}" for name, url in nodes.items()]
    status, closing, err = await torture("--yes", "--seconds", "3", "--seed", "3", "--nodes", *named)
    assert (status, closing.get("wrong")) == (0, []), (closing, err)
    assert closing["faults_by_kind"]["worker-kill"] == 1
    assert "started itself" in closing["faults_off"]["server-kill"]
    async with connections({name: NodeSettings(url=url) for name, url in nodes.items()}) as sessions:
        assert not any([await session.has_table(LISTS) for session in sessions.values()])


async def test_tables_of_strangers_stop_it(database: DatabaseFactory) -> None:
    nodes = {"a": database("postgresql"), "b": database("postgresql")}
    async with connections({"b": NodeSettings(url=nodes["b"])}) as sessions:
        await sessions["b"].command(f"CREATE TABLE {LISTS} (id integer)")
    named = [f"{name}={url}" for name, url in nodes.items()]
    status, closing, _ = await torture("--yes", "--replace", "--nodes", *named)
    assert status == 2
    assert LISTS in closing["error"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nodes", "a=postgresql://127.0.0.1:1/x", "b=postgresql://127.0.0.1:1/y"], "nobody was asked"),
        (["--nodes", "a=postgresql://127.0.0.1:1/x"], "two at least"),
        (["--own", "postgresql"], "--own"),
        (["--own", "postgresql,oracle"], "--own"),
        (["--seconds", "0"], "no time to run"),
        (["--workers", "0"], "--workers"),
        (["--rarity", "0"], "--rarity"),
        (["--faults", "earthquake"], "earthquake"),
        (["--unprotected", "--isolation", "snapshot"], "plain commits know no isolation"),
        (["--report", "/nowhere/at/all.html"], "no folder"),
    ],
)
async def test_what_cannot_be_run_is_refused_clearly(arguments: list[str], words: str) -> None:
    status, closing, err = await torture(*arguments)
    assert status == 2
    assert words in closing["error"]
    assert "Traceback" not in err
