"""`nodoubt settle`: one round, or many until it is told to stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

from nodoubt.testing.servers import PostgreSQLServer
from tests.cli.conftest import Run, Shop, sql, write_config
from tests.conftest import DatabaseFactory


def test_it_brings_what_was_left_to_its_decision(run: Run, shop: Shop) -> None:
    committed, undecided = shop.gid(), shop.gid()
    shop.prepare(committed, 1, "stock", "orders")
    shop.prepare(committed, 2, "billing", "orders")
    shop.decide(committed, "orders", participants='{"1":"stock","2":"billing"}')
    shop.prepare(undecided, 1, "stock", "orders")
    printed = run("settle")
    assert printed.code == 0
    assert printed.out == "2 committed, 1 rolled back, 1 marked complete\n"
    assert shop.worked("stock") == shop.worked("billing") == {committed}
    assert run("settle").out == "0 committed, 0 rolled back, 0 marked complete\n"


def test_the_report_as_json(run: Run, shop: Shop) -> None:
    gid = shop.gid()
    shop.prepare(gid, 1, "stock", "orders")
    shop.prepare(shop.gid(), 1, "stock", "orders", domain="office")
    report = run("settle", "--json").json
    assert report.pop("seconds") > 0
    assert report == {
        "committed": 0,
        "rolled_back": 1,
        "completed": 0,
        "young": 0,
        "waiting": [],
        "strays": [],
        "unreachable": {},
        "foreign": {"stock": 1},
    }
    assert "node stock holds 1 prepared transaction of others, left alone" in run("settle").out


def test_what_is_young_waits_for_the_configured_grace_or_the_one_given(run: Run, shop: Shop) -> None:
    write_config(shop.urls, grace_s=3600)
    gid = shop.gid()
    shop.prepare(gid, 1, "stock", "orders")
    printed = run("settle")
    assert printed.code == 4
    assert printed.out == "0 committed, 0 rolled back, 0 marked complete; 1 younger than the grace period\n"
    # Looking at it must not abort it: its owner may be about to decide.
    assert shop.decision("orders", gid) is None
    assert len(shop.prepared("stock")) == 1
    assert run("settle", "--grace", "0").code == 0
    assert shop.prepared("stock") == []


def test_a_node_that_is_down_is_named_and_blocks_no_other(
    run: Run, database: DatabaseFactory, shop: Shop, postgresql2: PostgreSQLServer
) -> None:
    write_config({**shop.urls, "far": database("postgresql2")})
    postgresql2.kill()
    gid, waits = shop.gid(), shop.gid()
    shop.prepare(gid, 1, "stock", "orders")
    shop.prepare(waits, 1, "stock", "far")
    printed = run("settle")
    assert printed.code == 3
    assert "1 rolled back" in printed.out
    assert "home-silent" in printed.out
    assert "node far could not be asked: cannot connect" in printed.out
    assert [name.split(".")[2] for name in shop.prepared("stock")] == [waits]


def test_a_branch_that_somebody_finished_needs_a_person(run: Run, shop: Shop) -> None:
    gid = shop.gid()
    shop.decide(gid, "orders", participants='{"1":"stock"}')
    printed = run("settle")
    assert printed.code == 1
    assert "a person must look" in printed.out
    assert "rolled-back-by-hand" in printed.out


def test_a_swapped_url_is_refused_before_anything_is_settled(run: Run, shop: Shop) -> None:
    gid = shop.gid()
    shop.prepare(gid, 1, "stock", "orders")
    write_config({**shop.urls, "orders": shop.urls["stock"], "stock": shop.urls["orders"]})
    printed = run("settle")
    assert printed.code == 2
    assert "two URLs are swapped" in printed.err
    assert len(shop.prepared("stock")) == 1


def test_long_work_tells_its_progress(run: Run, shop: Shop) -> None:
    gids = [shop.gid() for _ in range(65)]
    work = [
        statement
        for gid in gids
        for statement in (
            "BEGIN",
            f"INSERT INTO nodoubt.branch VALUES ('{gid}', 1)",
            f"PREPARE TRANSACTION 'nd1.shop.{gid}.1.orders'",
        )
    ]
    sql(shop.urls["stock"], *work, "SELECT 1")
    printed = run("settle", "--json")
    assert printed.json["rolled_back"] == 65
    assert printed.err.splitlines() == ["64 of 65 transactions looked at", "65 of 65 transactions looked at"]


def test_a_watch_that_never_rests_is_refused(run: Run) -> None:
    printed = run("settle", "--watch", "--every", "0")
    assert printed.code == 2
    assert "invalid number of seconds value: '0'" in printed.err


def watching(shop: Shop, stop: signal.Signals) -> tuple[int, list[str]]:
    """Watch until the first change was told, leave more work, and stop once that was told, too."""
    first, second = shop.gid(), shop.gid()
    shop.prepare(first, 1, "stock", "orders")
    command = [sys.executable, "-m", "nodoubt", "settle", "--watch", "--every", "0.05", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline()]
        shop.prepare(second, 1, "billing", "orders")
        while sum(json.loads(line)["rolled_back"] for line in lines) < 2:
            lines.append(process.stdout.readline())
        process.send_signal(stop)
        lines += process.stdout.readlines()
        assert process.stderr.read() == "settling every 0.05 s; stop with Ctrl-C\n"
    return process.returncode, lines


def test_watching_ends_gracefully(shop: Shop) -> None:
    for stop in (signal.SIGTERM, signal.SIGINT):
        code, lines = watching(shop, stop)
        assert code == 0
        # A round that changed nothing has no line.
        assert len(lines) <= 4
    assert shop.prepared("stock") == shop.prepared("billing") == []


def test_the_endless_example_works(shop: Shop) -> None:
    command = [sys.executable, "-m", "nodoubt", "settle", "--watch", "--every", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0 committed, 0 rolled back, 0 marked complete\n"
        process.send_signal(signal.SIGINT)
    assert process.returncode == 0


def test_watching_takes_up_a_node_that_comes_back(
    run: Run, database: DatabaseFactory, shop: Shop, postgresql2: PostgreSQLServer
) -> None:
    write_config({**shop.urls, "far": database("postgresql2")})
    assert run("init").code == 0
    gid = shop.gid()
    shop.prepare(gid, 1, "stock", "far")
    postgresql2.kill()
    command = [sys.executable, "-m", "nodoubt", "settle", "--watch", "--every", "0.05", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert list(first["unreachable"]) == ["far"]
        assert [doubt["case"] for doubt in first["waiting"]] == ["home-silent"]
        postgresql2.restart()
        while not json.loads(process.stdout.readline())["rolled_back"]:
            pass
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
    assert shop.prepared("stock") == []
