"""`nodoubt init`: tables are made once, told of per node, and printed for those who make them themselves."""

from __future__ import annotations

from tests.cli.conftest import Run, Shop, sql, write_config

NOWHERE = "postgresql://postgres@127.0.0.1:1/none"


def test_it_says_per_node_what_was_done(run: Run, bare_shop: Shop) -> None:
    printed = run("init")
    assert (printed.code, printed.err) == (0, "")
    assert printed.out.splitlines() == [f"{name}: installed, schema 1" for name in bare_shop.urls]
    assert run("init").out.splitlines() == [f"{name}: already installed, schema 1" for name in bare_shop.urls]
    printed = run("init", "--json")
    assert printed.json["nodes"]["stock"] == {"done": True, "text": "already installed, schema 1"}
    assert sql(bare_shop.urls["stock"], "SELECT name, domain FROM nodoubt.node") == [("stock", "shop")]


def test_the_printed_statements_make_what_it_would_make(run: Run, bare_shop: Shop) -> None:
    for name, text in run("init", "--sql", "--json").json["sql"].items():
        assert sql(bare_shop.urls[name], "SELECT to_regclass('nodoubt.node')") == [(None,)]
        sql(bare_shop.urls[name], text, "SELECT 1")
    assert run("doctor").code == 0
    printed = run("init", "--sql")
    assert printed.code == 0
    assert [line for line in printed.out.splitlines() if line.startswith("--")] == [
        "-- node orders",
        "-- node stock",
        "-- node billing",
    ]


def test_a_partial_failure_names_what_was_done(run: Run, bare_shop: Shop) -> None:
    write_config({"orders": bare_shop.urls["orders"], "down": NOWHERE, "stock": bare_shop.urls["stock"]})
    printed = run("init")
    assert printed.code == 3
    assert "orders: installed" in printed.out
    assert "down: FAILED: cannot connect" in printed.out
    assert "stock: installed" in printed.out
    assert printed.out.splitlines()[-1].startswith("done: orders, stock; failed: down;")
    nodes = run("init", "--json").json["nodes"]
    assert nodes["down"]["done"] is False
    assert nodes["down"]["hint"] == "is the server running?"


def test_one_database_for_two_nodes_is_refused(run: Run, bare_shop: Shop) -> None:
    write_config({"orders": bare_shop.urls["orders"], "stock": bare_shop.urls["orders"]})
    printed = run("init")
    assert printed.code == 2
    assert "stock: FAILED: node 'stock' reached the database that is node 'orders'" in printed.out


def test_a_role_that_may_not_is_a_failure_of_its_own(run: Run, bare_shop: Shop) -> None:
    sql(bare_shop.urls["orders"], "DROP ROLE IF EXISTS init_guest", "CREATE ROLE init_guest LOGIN", "SELECT 1")
    write_config({"orders": bare_shop.urls["orders"].replace("postgres@", "init_guest@")})
    printed = run("init")
    assert printed.code == 1
    assert "permission denied" in printed.out
