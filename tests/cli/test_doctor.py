"""`nodoubt doctor`: each misconfiguration is named, explained, and comes with what mends it. On real servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nodoubt.engine.worlds import AsyncWorld
from nodoubt.nodes import postgresql_inspect
from nodoubt.testing.servers import PostgreSQLServer
from tests.cli.conftest import Run, Shop, sql, write_config
from tests.conftest import DatabaseFactory

CHECKS = ["version", "prepared", "durable", "privileges", "identity", "foreign", "clock"]


@pytest.fixture(scope="module")
def crippled() -> Iterator[PostgreSQLServer]:
    """A server with the settings that must not be."""
    settings = {"max_prepared_transactions": "0", "fsync": "off", "full_page_writes": "off"}
    with PostgreSQLServer.start(settings) as server:
        yield server


def findings(run: Run, node: str, check: str, *words: str) -> list[dict[str, str]]:
    """What doctor finds of one check on one node; what is not fine has a fix."""
    found = run("doctor", "--json", *words).json["nodes"][node]
    assert all(finding["fix"] for finding in found if finding["level"] != "ok")
    return [finding for finding in found if finding["check"] == check]


def finding(run: Run, node: str, check: str, *words: str) -> dict[str, str]:
    (one,) = findings(run, node, check, *words)
    return one


def test_a_sound_shop_has_nothing_but_fine_findings(run: Run, shop: Shop) -> None:
    printed = run("doctor", "--json")
    assert (printed.code, printed.err) == (0, "")
    assert printed.json["domain"] == "shop"
    assert (printed.json["errors"], printed.json["warnings"], printed.json["between"]) == (0, 0, [])
    for found in printed.json["nodes"].values():
        assert [(finding["check"], finding["level"]) for finding in found] == [(check, "ok") for check in CHECKS]
    printed = run("doctor")
    assert printed.code == 0
    assert printed.out.splitlines()[0] == "node orders"
    assert "  ok       identity: is node 'orders' of domain 'shop'" in printed.out
    assert printed.out.splitlines()[-1] == "3 nodes of domain shop: 0 errors, 0 warnings"


def test_settings_that_cannot_promise_are_named(run: Run, crippled: PostgreSQLServer) -> None:
    write_config({"orders": crippled.url})
    assert run("init").code == 0
    printed = run("doctor")
    assert printed.code == 1
    assert "ERROR    prepared: max_prepared_transactions is 0" in printed.out
    assert "           fix: set max_prepared_transactions" in printed.out
    assert printed.out.splitlines()[-1] == "1 node of domain shop: 2 errors, 1 warning"
    slots = finding(run, "orders", "prepared")
    assert (slots["level"], slots["text"].split(":")[0]) == ("error", "max_prepared_transactions is 0")
    assert "restart" in slots["fix"]
    durable = {found["text"].split(" ")[0]: found for found in findings(run, "orders", "durable")}
    assert durable["fsync"]["level"] == "error"
    assert "for reading only" in durable["fsync"]["fix"]
    assert durable["full_page_writes"]["level"] == "warning"


def test_a_server_without_a_free_place_and_then_as_a_standby(run: Run) -> None:
    with PostgreSQLServer.start({"max_prepared_transactions": "1"}) as server:
        write_config({"orders": server.url})
        assert run("init").code == 0
        sql(server.url, "BEGIN", "CREATE TABLE t ()", "PREPARE TRANSACTION 'theirs'", "SELECT 1")
        slots = finding(run, "orders", "prepared")
        assert (slots["level"], slots["text"]) == ("error", "0 of 1 prepared transactions are free")
        sql(server.url, "ROLLBACK PREPARED 'theirs'", "SELECT 1")
        assert finding(run, "orders", "prepared")["level"] == "warning"
        (server.folder / "data" / "standby.signal").touch()
        server.restart()
        standby = finding(run, "orders", "durable")
        assert standby["level"] == "error"
        assert "standby" in standby["text"]
        assert "primary" in standby["fix"]


def test_fewer_free_places_than_connections_are_a_warning(run: Run, shop: Shop) -> None:
    nodes: dict[str, Any] = {"orders": shop.urls["orders"]}
    path = write_config(nodes)
    path.write_text(
        path.read_text().split("[nodes]")[0] + f'[nodes.orders]\nurl = "{shop.urls["orders"]}"\npool_size = 3000\n'
    )
    slots = finding(run, "orders", "prepared")
    assert slots["level"] == "warning"
    assert "fewer than the node's pool_size of 3000" in slots["text"]
    assert run("doctor").code == 0


@pytest.mark.parametrize(("shift_ms", "text"), [(-100_000, "ahead of"), (100_000, "behind")])
def test_a_wrong_clock_is_a_warning(
    run: Run, shop: Shop, monkeypatch: pytest.MonkeyPatch, shift_ms: int, text: str
) -> None:
    true_ms = AsyncWorld.unix_ms
    monkeypatch.setattr(AsyncWorld, "unix_ms", lambda world: true_ms(world) + shift_ms)
    clock = finding(run, "stock", "clock")
    assert clock["level"] == "warning"
    assert f"s {text} the clock of this machine" in clock["text"]
    assert "time server" in clock["fix"]


def test_an_old_server_is_named(run: Run, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql_inspect, "VERSION_MIN", 990_000)
    version = finding(run, "stock", "version")
    assert version["level"] == "error"
    assert version["text"].endswith("is older than 99")
    assert "upgrade" in version["fix"]


def test_missing_tables_are_named(run: Run, bare_shop: Shop) -> None:
    identity = finding(run, "orders", "identity")
    assert (identity["level"], identity["fix"]) == ("error", "run `nodoubt init`")
    assert identity["text"] == "node 'orders': nodoubt's tables are missing"
    printed = run("tx", "list")
    assert printed.code == 2
    assert "tables are missing" in printed.err
    assert "run `nodoubt init`" in printed.err


def test_swapped_urls_are_named(run: Run, shop: Shop) -> None:
    write_config({"orders": shop.urls["stock"], "stock": shop.urls["orders"]})
    assert run("doctor").code == 1
    for node, other in (("orders", "stock"), ("stock", "orders")):
        identity = finding(run, node, "identity")
        assert identity["level"] == "error"
        assert identity["text"] == f"node {node!r} reached the database that is node {other!r}"
        assert "two URLs are swapped" in identity["fix"]
    assert run("doctor", "--json").json["between"] == []


def test_one_database_for_two_nodes_is_named(run: Run, shop: Shop) -> None:
    write_config({"orders": shop.urls["orders"], "stock": shop.urls["orders"]})
    assert "one database is configured twice" in finding(run, "stock", "identity")["fix"]
    printed = run("doctor")
    assert printed.code == 1
    assert "between nodes\n  ERROR    identity: nodes 'orders' and 'stock' are one database" in printed.out


def test_a_copied_database_is_named(run: Run, bare_shop: Shop) -> None:
    assert run("init").code == 0
    for url in (bare_shop.urls["orders"], bare_shop.urls["stock"]):
        sql(url, "UPDATE nodoubt.node SET id = 'copied'", "SELECT 1")
    printed = run("doctor", "--json")
    assert printed.code == 1
    (between,) = printed.json["between"]
    assert (between["check"], between["level"]) == ("identity", "error")
    assert between["text"] == "nodes 'orders' and 'stock' are one database"
    assert "copied" in between["fix"]


def test_a_mariadb_database_without_our_tables_is_named(run: Run, database: DatabaseFactory) -> None:
    write_config({"stock": database("mariadb")})
    printed = run("doctor", "--json")
    assert (printed.code, printed.json["errors"]) == (1, 1)
    identity = finding(run, "stock", "identity")
    assert identity["level"] == "error"
    assert "nodoubt init" in identity["fix"]


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_port_that_is_none_is_named(run: Run, kind: str) -> None:
    write_config({"stock": f"{kind}://me@127.0.0.1:99999/shop"})
    printed = run("doctor", "--json")
    assert printed.code in (1, 2)
    said = (printed.out + printed.err).lower()
    assert "port" in said
    assert "bug" not in said


def test_another_domain_is_named(run: Run, shop: Shop) -> None:
    identity = finding(run, "orders", "identity", "--domain", "office")
    assert identity["level"] == "error"
    assert identity["text"] == "node 'orders' reached a database of domain 'shop', not 'office'"


def test_a_newer_schema_is_named(run: Run, bare_shop: Shop) -> None:
    assert run("init").code == 0
    sql(bare_shop.urls["orders"], "UPDATE nodoubt.node SET schema_version = 99", "SELECT 1")
    identity = finding(run, "orders", "identity")
    assert "have schema 99" in identity["text"]
    assert "upgrade nodoubt" in identity["fix"]


def test_a_server_that_does_not_answer_is_named_and_hides_no_other(
    run: Run, database: DatabaseFactory, shop: Shop, postgresql2: PostgreSQLServer
) -> None:
    write_config({"far": database("postgresql2"), "orders": shop.urls["orders"]})
    postgresql2.kill()
    reachable = finding(run, "far", "reachable")
    assert reachable["level"] == "error"
    assert "cannot connect" in reachable["text"]
    assert "is the server running?" in reachable["fix"]
    assert finding(run, "orders", "identity")["level"] == "ok"
    assert run("doctor").code == 1


def test_a_wrong_password_and_a_missing_database_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with PostgreSQLServer.start() as server:
        sql(server.url, "ALTER ROLE postgres PASSWORD 'right'", "SELECT 1")
        rules = server.folder / "data" / "pg_hba.conf"
        rules.write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n", "ascii")
        server.restart()
        login = server.url.replace("postgres@", "postgres:${PASSWORD}@")
        write_config({"orders": login, "stock": f"{login}x"})
        monkeypatch.setenv("PASSWORD", "wr@ng")
        for node in ("orders", "stock"):
            reachable = finding(run, node, "reachable")
            assert reachable["level"] == "error"
            assert "password authentication failed" in reachable["text"]
            assert "check user, password, port and database" in reachable["fix"]
        assert "wr@ng" not in run("doctor").out
        printed = run("tx", "list")
        assert printed.code == 2
        assert "password authentication failed" in printed.err
        monkeypatch.setenv("PASSWORD", "right")
        assert finding(run, "orders", "version")["level"] == "ok"
        assert '"postgresx" does not exist' in finding(run, "stock", "reachable")["text"]


def test_an_option_that_the_server_does_not_know_is_wrong_configuration(run: Run, shop: Shop) -> None:
    write_config({"orders": f"{shop.urls['orders']}?nonsense=1"})
    assert 'unrecognized configuration parameter "nonsense"' in finding(run, "orders", "reachable")["text"]
    assert run("tx", "list").code == 2


def test_a_role_without_privileges_is_named(run: Run, shop: Shop) -> None:
    sql(shop.urls["orders"], "DROP ROLE IF EXISTS doctor_guest", "CREATE ROLE doctor_guest LOGIN", "SELECT 1")
    write_config({"orders": shop.urls["orders"].replace("postgres@", "doctor_guest@")})
    shop.prepare(shop.gid(), 1, "orders", "stock")
    lacking = {found["text"]: found for found in findings(run, "orders", "privileges")}
    assert all(found["level"] == "error" for found in lacking.values())
    assert [text.split(", or")[0] for text in lacking] == [
        "role 'doctor_guest' lacks DELETE, INSERT, SELECT on nodoubt.branch",
        "role 'doctor_guest' lacks DELETE, INSERT, SELECT, UPDATE on nodoubt.decision",
        "role 'doctor_guest' lacks SELECT, UPDATE on nodoubt.node",
        "role 'doctor_guest' cannot finish branches that were prepared by 'postgres'",
    ]
    assert finding(run, "orders", "identity")["text"].startswith("cannot be read: ")
    # Its fixes, carried out, mend it.
    for found in lacking.values():
        if found["fix"].startswith("GRANT"):
            sql(shop.urls["orders"], found["fix"], "SELECT 1")
    assert finding(run, "orders", "identity")["level"] == "ok"
    (left,) = findings(run, "orders", "privileges")
    assert "cannot finish" in left["text"]
    assert "one role" in left["fix"]
    sql(shop.urls["orders"], "DROP OWNED BY doctor_guest", "DROP ROLE doctor_guest", "SELECT 1")


def test_a_role_that_may_not_create_our_tables_is_named(run: Run, bare_shop: Shop) -> None:
    sql(
        bare_shop.urls["orders"], "DROP ROLE IF EXISTS doctor_newcomer", "CREATE ROLE doctor_newcomer LOGIN", "SELECT 1"
    )
    write_config({"orders": bare_shop.urls["orders"].replace("postgres@", "doctor_newcomer@")})
    privileges = finding(run, "orders", "privileges")
    assert "may not create the schema nodoubt" in privileges["text"]
    assert privileges["fix"].startswith("GRANT CREATE ON DATABASE")


def test_prepared_transactions_of_others_are_counted_and_explained(
    run: Run, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.prepare(shop.gid(), 1, "stock", "orders", domain="office")
    sql(shop.urls["stock"], "BEGIN", "INSERT INTO work VALUES ('x')", "PREPARE TRANSACTION 'somebody'", "SELECT 1")
    shop.prepare(shop.gid(), 1, "stock", "orders")
    found = {finding["text"].split(",")[0]: finding for finding in findings(run, "stock", "foreign")}
    assert {text: finding["level"] for text, finding in found.items()} == {
        "1 prepared transaction of domain 'office'": "ok",
        "1 prepared transaction of another product": "warning",
    }
    assert "holds locks and is left alone" in found["1 prepared transaction of another product"]["fix"]
    monkeypatch.setattr(postgresql_inspect, "OLD_S", 0.0)
    found = {finding["text"].split(",")[0]: finding for finding in findings(run, "stock", "foreign")}
    assert {finding["level"] for finding in found.values()} == {"warning"}
    assert "nodoubt settle" in found["1 prepared transaction of this domain"]["fix"]
    assert run("doctor").code == 0
