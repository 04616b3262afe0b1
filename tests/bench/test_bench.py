"""The bench measures, checks, tells and draws: short real runs by the public command."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from nodoubt.bench import contestants, runner
from nodoubt.bench.contestants import HAND_WRITTEN, NODOUBT, PLAIN_COMMIT, SQLALCHEMY, TWO_COMMITS
from nodoubt.bench.grounds import Ground, install
from nodoubt.bench.lines import kind_of
from nodoubt.bench.runner import Race, order, run_lap, run_race
from nodoubt.bench.settling import check as check_settled
from nodoubt.bench.settling import leave_in_doubt
from nodoubt.bench.summary import Target
from nodoubt.bench.work import TABLE, Options, WorkNotDone, keys, percentile
from nodoubt.cli import bench
from nodoubt.engine.settle import SettleReport
from nodoubt.errors import ConfigError
from nodoubt.testing.servers import ServerMissing

Database = Callable[[Literal["postgresql", "postgresql2", "mariadb"]], str]

SHORT = Options(rounds=2, seconds=0.3, clients=4, branches=200)


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add(parser.add_subparsers())
    return parser.parse_args(["bench", *words])


def run(folder: Path, *words: str) -> int:
    """The command with a short run."""
    called = arguments("--rounds=2", "--seconds=0.3", "--clients=4", "--plot", str(folder / "plot.png"), *words)
    code: int = called.run(called)
    return code


class Lazy(contestants.Unprotected):
    """Leaves out the second node, and is the faster for it."""

    name = "lazy"

    async def transact(self, client: int, key: Callable[[], int]) -> None:
        (line, _), kind = self._lines[client], self._kinds[0]
        await line.begin()
        await kind.update(line.connection, key(), -1)
        await line.commit()


class Idle(contestants.Unprotected):
    """Never finishes anything in time."""

    name = "idle"

    async def run(self, lap: int, seconds: float) -> list[float]:
        return []


def test_two_postgresql_servers_give_ratios_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--scenario=postgresql+postgresql", "--json") == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert set(told["ratios"]) == {"postgresql+postgresql"}
    ratios = told["ratios"]["postgresql+postgresql"]
    assert set(ratios) == {HAND_WRITTEN, SQLALCHEMY, TWO_COMMITS}
    assert all(ratio > 0 for ratio in ratios.values())
    race = told["scenarios"]["postgresql+postgresql"]
    assert [figures["name"] for figures in race["contestants"]] == [NODOUBT, HAND_WRITTEN, SQLALCHEMY, TWO_COMMITS]
    for figures in race["contestants"]:
        assert len(figures["rates"]) == 2
        assert figures["per_second_min"] <= figures["per_second"] <= figures["per_second_max"]
        assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]
        assert figures["client_cpu_us"] > 0
        assert figures["server_cpu_us"] > 0
    assert {target["what"]: target["at_least"] for target in told["targets"]} == {
        HAND_WRITTEN: 1.0,
        SQLALCHEMY: 1.5,
        TWO_COMMITS: 0.7,
    }
    assert {"cpu", "memory", "kernel", "Python", "loop"} <= set(told["machine"])
    picture = (tmp_path / "plot.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000
    assert "round 2 of 2" in err
    assert str(tmp_path / "plot.png") in err


def test_settling_and_the_printed_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--scenario=one-node", "--scenario=settle", "--branches=200") == 0
    page = capsys.readouterr().out
    assert "one-node  (4 clients, 2 rounds of 0.3 s)" in page
    assert PLAIN_COMMIT in page
    assert "settle  (200 branches in doubt" in page
    assert "of 1,500/s" in page


def test_mariadb_beside_postgresql(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--scenario=postgresql+mariadb", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["ratios"]["postgresql+mariadb"]) == {HAND_WRITTEN, TWO_COMMITS}


async def test_the_peers_on_mariadb_do_their_work() -> None:
    peers = (contestants.HandWritten, contestants.Unprotected)
    race = Race(name="peers", kinds=("postgresql", "mariadb"), contestants=peers)
    result = await run_race(race, SHORT, lambda _: None)
    assert [set(laps) for laps in result.rounds] == [{HAND_WRITTEN, TWO_COMMITS}] * 2


def test_given_nodes_are_used(tmp_path: Path, capsys: pytest.CaptureFixture[str], database: Database) -> None:
    url = database("postgresql")
    assert run(tmp_path, "--nodes", f"a={url}", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["ratios"]) == {"one-node"}  # the one scenario that fits a single PostgreSQL node
    assert [figures["server_cpu_us"] for figures in told["scenarios"]["one-node"]["contestants"]] == [None, None]


async def test_a_contestant_that_skips_a_node_is_caught(database: Database) -> None:
    options = Options(
        rounds=1, seconds=0.1, clients=2, nodes={"a": database("postgresql"), "b": database("postgresql2")}
    )
    race = Race(name="cheating", kinds=("postgresql", "postgresql"), contestants=(Lazy,))
    with pytest.raises(WorkNotDone, match=r"lazy counted \d+ transactions, but the total of node 1 moved by 0"):
        await run_race(race, options, lambda _: None)


async def test_a_contestant_that_does_nothing_is_caught(database: Database) -> None:
    options = Options(
        rounds=1, seconds=0.1, clients=2, nodes={"a": database("postgresql"), "b": database("postgresql2")}
    )
    race = Race(name="idle", kinds=("postgresql", "postgresql"), contestants=(Idle,))
    with pytest.raises(WorkNotDone, match="finished no transaction"):
        await run_race(race, options, lambda _: None)


def test_what_cannot_be_had_is_left_out_unless_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ServerMissing("mariadbd is not installed")

    monkeypatch.setattr("nodoubt.testing.servers.MariaDBServer.start", lambda _: missing())
    with pytest.raises(ConfigError, match="mariadbd is not installed"):
        run(tmp_path, "--scenario=postgresql+mariadb")
    races = [race for race in runner.RACES if race.name in ("one-node", "postgresql+mariadb")]
    monkeypatch.setattr(runner, "RACES", races)
    assert run(tmp_path, "--branches=20") == 0
    assert "postgresql+mariadb is left out: mariadbd is not installed" in capsys.readouterr().out


def test_a_cheat_fails_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    race = Race(name="one-node", kinds=("postgresql",), contestants=(Idle,))
    monkeypatch.setattr(runner, "RACES", (race,))
    assert run(tmp_path, "--nodes", f"a={database('postgresql')}") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "nodoubt bench: idle finished no transaction" in err


async def test_branches_that_nobody_settled_are_caught(database: Database) -> None:
    place = Ground(urls=[database("postgresql"), database("postgresql2")])
    await place.furnish()
    await install(place.urls)
    gids = await leave_in_doubt(place, Options(clients=2, branches=6))
    with pytest.raises(WorkNotDone, match="6 branches are still in doubt"):
        await check_settled(place, gids, SettleReport(committed=3, rolled_back=3))
    async with place.lines() as (_, other):
        for (name,) in await other.query("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"):
            await other.commit_prepared(name)
    with pytest.raises(WorkNotDone, match="6 branches are applied"):
        await check_settled(place, gids, SettleReport(committed=3, rolled_back=3))


async def test_a_lap_counts_what_the_table_shows(database: Database) -> None:
    place = Ground(urls=[database("postgresql"), database("postgresql2")])
    await place.furnish()
    contestant = contestants.HandWritten(place.urls, SHORT)
    await contestant.open()
    async with place.lines() as lines:
        lap = await run_lap(contestant, 1, 0.1, place, lines)
        assert await lines[1].query(f"SELECT sum(balance)::bigint FROM {TABLE}") == [(lap.count,)]
    await contestant.close()
    await place.clear()
    async with place.lines() as lines:
        assert await lines[0].query(f"SELECT to_regclass('{TABLE}') IS NULL") == [(True,)]


def test_the_order_changes_every_round() -> None:
    entrants: list[Any] = ["a", "b", "c"]
    orders = ["".join(map(str, order(entrants, number))) for number in range(6)]
    assert orders == ["abc", "acb", "cab", "cba", "bca", "bac"]


def test_contestants_draw_the_same_keys() -> None:
    one, again, other = keys(1, 2, 3), keys(1, 2, 3), keys(1, 2, 4)
    drawn = [one() for _ in range(10)]
    assert drawn == [again() for _ in range(10)]
    assert drawn != [other() for _ in range(10)]


@pytest.mark.parametrize(("percent", "value"), [(1, 1.0), (50, 2.0), (75, 3.0), (99, 4.0), (100, 4.0)])
def test_percentiles(percent: int, value: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], percent) == value


@pytest.mark.parametrize(("got", "met"), [(0.99, False), (1.0, True)])
def test_a_target_is_met_at_its_limit(got: float, met: bool) -> None:
    assert Target(scenario="s", what="w", at_least=1.0, got=got, unit="x").met is met


@pytest.mark.parametrize(("target", "code"), [(0.0, 0), (1e9, 1)])
def test_check_fails_the_command_when_a_target_is_missed(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, target: float, code: int
) -> None:
    monkeypatch.setattr("nodoubt.bench.summary.TARGETS", {"one-node": {PLAIN_COMMIT: target}})
    assert run(tmp_path, "--check", "--nodes", f"a={database('postgresql')}") == code


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--nodes", "a"), "'a' is not a node"),
        (("--nodes", "a=sqlite:///x.db"), "no scenario fits these nodes"),
        (("--scenario=settle", "--nodes", "a=postgresql://h/d"), "needs postgresql and postgresql nodes"),
        (("--plot=/nowhere/plot.png",), "there is no folder /nowhere"),
    ],
)
def test_a_wrong_call_is_refused_before_measuring(words: tuple[str, ...], message: str) -> None:
    called = arguments(*words)
    with pytest.raises(ConfigError, match=message):
        called.run(called)


def test_kinds_of_url() -> None:
    assert [kind_of(url) for url in ("postgres://h/d", "postgresql://h/d", "mysql://h/d")] == [
        "postgresql",
        "postgresql",
        "mariadb",
    ]
    with pytest.raises(ConfigError, match="does not know 'redis'"):
        kind_of("redis://h")
