"""`nodoubt tx`: what is in doubt is shown as it is, and a person decides only what nobody can learn."""

from __future__ import annotations

import io
import sys

import pytest

from nodoubt.testing.servers import PostgreSQLServer
from tests.cli.conftest import Run, Shop, sql, write_config
from tests.conftest import DatabaseFactory

REASON = ("--reason", "its machine burnt down")


def without(shop: Shop, *names: str) -> None:
    """Take nodes out of the configuration."""
    write_config({name: url for name, url in shop.urls.items() if name not in names})


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_in_doubt_is_said_so(run: Run, shop: Shop) -> None:
    printed = run("tx", "list")
    assert (printed.code, printed.out) == (0, "nothing is in doubt\n")
    assert run("tx", "list", "--json").json == {"in_doubt": [], "unreachable": {}, "foreign": {}}


def test_the_list_has_every_branch_with_its_case_and_touches_nothing(run: Run, shop: Shop) -> None:
    committed, undecided, lost = shop.gid(), shop.gid(), shop.gid()
    shop.prepare(committed, 1, "stock", "orders")
    shop.decide(committed, "orders", participants='{"1":"stock"}')
    shop.prepare(undecided, 1, "stock", "orders")
    shop.prepare(lost, 1, "billing", "gone")
    for _ in range(2):
        printed = run("tx", "list", "--json")
        assert printed.code == 4
        found = {doubt["gid"]: doubt for doubt in printed.json["in_doubt"]}
        assert {gid: doubt["case"] for gid, doubt in found.items()} == {
            committed: "commit",
            undecided: "undecided",
            lost: "home-unknown",
        }
    doubt = found[committed]
    assert (doubt["branch"], doubt["node"], doubt["home"]) == (1, "stock", "orders")
    assert 0 < doubt["age_s"] < 60
    assert shop.decision("orders", undecided) is None
    printed = run("tx", "list")
    assert printed.code == 4
    assert printed.out.splitlines()[0].split() == ["GID", "AGE", "NODE", "BRANCH", "HOME", "CASE", "WHY"]
    assert f"{lost}  " in printed.out
    assert "home's name is not configured here" in printed.out


def test_a_decision_that_is_not_carried_out_is_listed_without_its_branch(run: Run, shop: Shop) -> None:
    gid = shop.gid()
    shop.decide(gid, "orders", participants='{"1":"stock"}')
    (doubt,) = run("tx", "list", "--json").json["in_doubt"]
    assert (doubt["gid"], doubt["case"], doubt["node"]) == (gid, "rolled-back-by-hand", "stock")


def test_a_node_that_is_down_is_named_and_hides_no_other(
    run: Run, database: DatabaseFactory, shop: Shop, postgresql2: PostgreSQLServer
) -> None:
    write_config({**shop.urls, "far": database("postgresql2")})
    postgresql2.kill()
    printed = run("tx", "list")
    assert printed.code == 3
    assert "node far could not be asked" in printed.out
    gid = shop.gid()
    shop.prepare(gid, 1, "stock", "far")
    printed = run("tx", "list", "--json")
    assert printed.code == 4
    assert [doubt["case"] for doubt in printed.json["in_doubt"]] == ["home-silent"]
    assert list(printed.json["unreachable"]) == ["far"]
    printed = run("tx", "show", gid)
    assert printed.code == 4
    assert "case home-silent" in printed.out
    assert "node far could not be asked" in printed.out
    assert run("tx", "show", shop.gid()).code == 3


def test_show_tells_the_evidence_of_a_committed_transaction(run: Run, shop: Shop) -> None:
    gid = shop.gid()
    shop.prepare(gid, 1, "stock", "orders")
    shop.prepare(gid, 2, "billing", "orders")
    shop.decide(gid, "orders", participants='{"1":"stock","2":"billing"}')
    printed = run("tx", "show", gid)
    assert printed.code == 4
    assert f"{gid}: not settled" in printed.out
    assert "home orders: committed" in printed.out
    assert "branch 1 on stock: prepared for" in printed.out
    assert "case commit: a committed decision is durable at home (rule 2)" in printed.out
    assert "next: settling commits it" in printed.out
    sql(shop.urls["billing"], f"COMMIT PREPARED '{shop.prepared('billing')[0]}'", "SELECT 1")
    branches = run("tx", "show", gid, "--json").json["branches"]
    assert [(branch["branch"], branch["node"], branch["case"]) for branch in branches] == [
        (1, "stock", "commit"),
        (2, "billing", "committed"),
    ]
    assert run("settle").code == 0
    printed = run("tx", "show", gid, "--json")
    assert (printed.code, printed.json["settled"]) == (0, True)
    assert printed.json["decisions"]["orders"]["says"] == "committed and complete"
    assert shop.worked("stock") == shop.worked("billing") == {gid}


def test_show_tells_that_nothing_is_decided_yet(run: Run, shop: Shop) -> None:
    gid = shop.gid()
    shop.prepare(gid, 1, "stock", "orders")
    printed = run("tx", "show", gid)
    assert printed.code == 4
    assert "home orders: no decision" in printed.out
    assert "settling aborts it at home and rolls it back" in printed.out
    assert run("settle").code == 0
    printed = run("tx", "show", gid)
    assert printed.code == 0
    assert "home orders: aborted" in printed.out


def test_show_reports_a_branch_that_somebody_rolled_back(run: Run, shop: Shop) -> None:
    gid = shop.gid()
    shop.decide(gid, "orders", participants='{"1":"stock"}')
    printed = run("tx", "show", gid)
    assert printed.code == 1
    assert "case rolled-back-by-hand" in printed.out
    assert "next: a person compares" in printed.out


def test_show_knows_no_stranger(run: Run, shop: Shop) -> None:
    gid = shop.gid()
    printed = run("tx", "show", gid)
    assert (printed.code, printed.out) == (1, "")
    assert f"{gid}: no node knows this gid" in printed.err
    assert run("tx", "show", gid, "--json").json["error"] == f"{gid}: no node knows this gid"
    printed = run("tx", "show", "nonsense")
    assert printed.code == 2
    assert "'nonsense' is not a gid" in printed.err


@pytest.mark.parametrize("decision", ["--commit", "--abort"])
def test_a_person_decides_in_place_of_a_lost_home(run: Run, shop: Shop, decision: str) -> None:
    gid = shop.gid()
    shop.prepare(gid, 1, "stock", "orders")
    shop.prepare(gid, 2, "billing", "orders")
    without(shop, "orders")
    assert "nodoubt tx resolve" in run("tx", "show", gid).out
    assert run("settle").code == 1
    printed = run("tx", "resolve", gid, decision, *REASON, "--yes")
    assert printed.code == 2
    assert "home 'orders' is not configured" in printed.err
    assert "--home NODE" in printed.err
    printed = run("tx", "resolve", gid, decision, "--home", "stock", *REASON, "--yes", "--json")
    word = "committed" if decision == "--commit" else "aborted"
    assert printed.code == 0
    assert printed.json == {
        "gid": gid,
        "decision": word,
        "written_at": "stock",
        "why": "home 'orders' is not configured",
        "reason": "its machine burnt down",
        "finished": ["billing", "stock"],
        "pending": [],
        "strays": [],
    }
    assert shop.decision("stock", gid) == (
        word,
        "resolved by a person: its machine burnt down; home 'orders' is not configured",
    )
    for node in ("stock", "billing"):
        assert shop.prepared(node) == []
        assert shop.worked(node) == ({gid} if decision == "--commit" else set())
    assert run("tx", "list").code == 0
    assert run("tx", "show", gid).code == 0
    assert run("settle").code == 0


def test_a_home_that_is_down_counts_as_lost_only_when_a_person_says_so(
    run: Run, database: DatabaseFactory, shop: Shop, postgresql2: PostgreSQLServer
) -> None:
    write_config({**shop.urls, "far": database("postgresql2")})
    postgresql2.kill()
    gid = shop.gid()
    shop.prepare(gid, 1, "stock", "far")
    printed = run("tx", "resolve", gid, "--abort", *REASON, "--yes")
    assert printed.code == 2
    assert "home 'far' does not answer" in printed.err
    printed = run("tx", "resolve", gid, "--abort", "--home", "far", *REASON, "--yes")
    assert printed.code == 2
    printed = run("tx", "resolve", gid, "--abort", "--home", "billing", *REASON, "--yes")
    assert printed.code == 0
    assert printed.out.splitlines() == [
        f"{gid}: aborted by your order, written on node billing",
        "rolled back: stock",
    ]


def test_a_person_is_refused_where_home_knows(run: Run, shop: Shop) -> None:
    undecided, committed, done = shop.gid(), shop.gid(), shop.gid()
    shop.prepare(undecided, 1, "stock", "orders")
    shop.prepare(committed, 1, "stock", "orders")
    shop.decide(committed, "orders")
    shop.decide(done, "orders", "aborted")
    for gid, message, hint in (
        (undecided, "home 'orders' answers and holds no decision", "nodoubt settle"),
        (committed, "home 'orders' has decided: committed", "nodoubt settle"),
        (done, "nothing to decide", "nodoubt tx show"),
        (shop.gid(), "no node knows this gid", ""),
    ):
        printed = run("tx", "resolve", gid, "--abort", "--home", "billing", *REASON, "--yes")
        assert (printed.code, printed.out) == (1, "")
        assert message in printed.err
        assert hint in printed.err
    assert len(shop.prepared("stock")) == 2
    assert shop.decision("billing", undecided) is None


def test_a_person_is_refused_against_committed_work(run: Run, shop: Shop) -> None:
    gid = shop.gid()
    shop.prepare(gid, 1, "stock", "orders")
    sql(shop.urls["stock"], f"COMMIT PREPARED '{shop.prepared('stock')[0]}'", "SELECT 1")
    shop.prepare(gid, 2, "billing", "orders")
    without(shop, "orders")
    printed = run("tx", "resolve", gid, "--abort", "--home", "stock", *REASON, "--yes")
    assert printed.code == 1
    assert "the branch on 'stock' is committed already" in printed.err
    printed = run("tx", "resolve", gid, "--commit", "--home", "stock", *REASON, "--yes")
    assert printed.code == 0
    assert shop.worked("billing") == {gid}


def test_two_persons_cannot_decide_differently(run: Run, shop: Shop) -> None:
    gid = shop.gid()
    shop.prepare(gid, 1, "stock", "orders")
    shop.decide(gid, "billing", "committed")
    without(shop, "orders")
    for words in (("--abort", "--home", "billing"), ("--abort", "--home", "stock"), ("--commit", "--home", "stock")):
        printed = run("tx", "resolve", gid, *words, *REASON, "--yes")
        assert printed.code == 1
        assert "node 'billing' holds a decision for it already: committed" in printed.err
    assert run("tx", "resolve", gid, "--commit", *REASON, "--yes").code == 0
    assert shop.worked("stock") == {gid}


def test_a_person_waits_while_a_node_that_may_know_is_down(
    run: Run, database: DatabaseFactory, shop: Shop, postgresql2: PostgreSQLServer
) -> None:
    gid = shop.gid()
    shop.prepare(gid, 1, "stock", "orders")
    write_config({"stock": shop.urls["stock"], "billing": shop.urls["billing"], "far": database("postgresql2")})
    postgresql2.kill()
    printed = run("tx", "resolve", gid, "--abort", "--home", "stock", *REASON, "--yes")
    assert printed.code == 3
    assert "'far' cannot be asked" in printed.err
    assert run("tx", "resolve", shop.gid(), "--abort", "--home", "stock", *REASON, "--yes").code == 3


@pytest.mark.parametrize(("decision", "word"), [("--commit", "committed"), ("--abort", "aborted")])
def test_a_damaged_decision_is_quarantined_shown_and_replaced(run: Run, shop: Shop, decision: str, word: str) -> None:
    gid, other = shop.gid(), shop.gid()
    for one in (gid, other):
        shop.prepare(one, 1, "stock", "orders")
        shop.decide(one, "orders", participants='{"1":"stock"}')
    sql(shop.urls["orders"], f"UPDATE nodoubt.decision SET decision = 'garbage' WHERE gid = '{gid}'", "SELECT 1")
    printed = run("settle", "--json")
    assert printed.code == 1
    assert [(stray["gid"], stray["case"]) for stray in printed.json["strays"]] == [(gid, "home-broken")]
    assert shop.worked("stock") == {other}
    printed = run("tx", "show", gid)
    assert printed.code == 4
    assert "decision 'garbage'" in printed.out
    assert "a person decides: nodoubt tx resolve" in printed.out
    printed = run("tx", "resolve", gid, decision, "--home", "billing", *REASON, "--yes")
    assert printed.code == 2
    assert "leave --home out" in printed.err
    printed = run("tx", "resolve", gid, decision, *REASON, "--yes")
    assert printed.code == 0
    assert f"{gid}: {word} by your order, written on node orders" in printed.out
    stands = shop.decision("orders", gid)
    assert stands is not None
    assert stands[0] == word
    assert "its machine burnt down" in stands[1]
    assert "decision 'garbage'" in stands[1]
    assert shop.worked("stock") == ({other, gid} if word == "committed" else {other})
    assert run("settle").code == 0
    assert run("tx", "show", gid).code == 0


def test_a_damaged_decision_is_reported_without_its_branches(run: Run, shop: Shop) -> None:
    gid = shop.gid()
    shop.decide(gid, "orders", participants="garbage")
    printed = run("settle", "--json")
    assert printed.code == 1
    assert [(stray["gid"], stray["node"]) for stray in printed.json["strays"]] == [(gid, "orders")]
    assert run("tx", "show", gid).code == 4
    assert run("tx", "list").code == 4


def test_it_asks_before_it_decides(run: Run, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    gid = shop.gid()
    shop.prepare(gid, 1, "stock", "orders")
    without(shop, "orders")
    order = ("tx", "resolve", gid, "--abort", "--home", "billing", *REASON)
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    printed = run(*order)
    assert printed.code == 2
    assert "no terminal" in printed.err
    monkeypatch.setattr(sys, "stdin", Terminal("no\n"))
    printed = run(*order)
    assert printed.code == 1
    assert "If home orders ever comes back" in printed.err
    assert printed.err.endswith("nothing was done\n")
    assert len(shop.prepared("stock")) == 1
    monkeypatch.setattr(sys, "stdin", Terminal("yes\n"))
    printed = run(*order, "--json")
    assert printed.code == 0
    assert printed.json["decision"] == "aborted"
    assert shop.prepared("stock") == []


def test_a_reason_is_a_reason_and_home_a_node(run: Run, shop: Shop) -> None:
    order = ("tx", "resolve", shop.gid(), "--abort")
    assert "--reason is empty" in run(*order, "--reason", " ").err
    printed = run(*order, "--home", "stok", *REASON)
    assert printed.code == 2
    assert "did you mean 'stock'?" in printed.err


def test_an_order_that_a_node_does_not_carry_out_is_given_again(run: Run, shop: Shop) -> None:
    gid = shop.gid()
    shop.prepare(gid, 1, "stock", "orders")
    sql(
        shop.urls["stock"],
        "DROP ROLE IF EXISTS tx_guest",
        "CREATE ROLE tx_guest LOGIN",
        "GRANT USAGE ON SCHEMA nodoubt TO tx_guest",
        "GRANT ALL ON ALL TABLES IN SCHEMA nodoubt TO tx_guest",
        "SELECT 1",
    )
    write_config({"stock": shop.urls["stock"].replace("postgres@", "tx_guest@"), "billing": shop.urls["billing"]})
    printed = run("tx", "resolve", gid, "--commit", "--home", "billing", *REASON, "--yes", "--json")
    assert printed.code == 4
    assert (printed.json["pending"], printed.json["finished"]) == (["stock"], [])
    assert shop.decision("billing", gid) is not None
    without(shop, "orders")
    printed = run("tx", "resolve", gid, "--commit", "--reason", "again", "--yes")
    assert printed.code == 0
    assert shop.worked("stock") == {gid}
    assert run("tx", "show", gid).code == 0
    sql(shop.urls["stock"], "DROP OWNED BY tx_guest", "DROP ROLE tx_guest", "SELECT 1")
