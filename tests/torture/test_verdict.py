"""The verdict on hand-made ends: each rule convicts what breaks it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nodoubt.demo.bank import Books
from nodoubt.judge import Level
from nodoubt.nodes.contract import Isolation
from nodoubt.torture import gates, plan
from nodoubt.torture.options import Kind
from nodoubt.torture.record import Record
from nodoubt.torture.verdict import Ledgers, examine

MONEY = 200


def ends() -> tuple[Record, Ledgers]:
    """A transfer, a reservation and two transactions on lists, all committed; and one of each that nobody knows of."""
    record = Record()
    asked = {"L1": [["append", "a/0", 1], ["append", "b/0", 2]], "L2": [["append", "a/0", 3], ["append", "b/0", 4]]}
    for time, (gid, work) in enumerate(
        [("T1", "transfer"), ("S1", "reservation"), ("L1", "lists"), ("L2", "lists")], start=1
    ):
        value = asked.get(gid)
        record.note(
            {"type": "invoke", "process": "1.1", "work": work, "gid": gid, "value": value, "time": 2 * time, "why": ""}
        )
        record.note({"type": "ok", "process": "1.1", "value": value, "time": 2 * time + 1, "why": ""})
    for lane, (gid, work) in enumerate([("T9", "transfer"), ("S9", "reservation"), ("L9", "lists")]):
        value = [["append", "a/0", 9], ["append", "b/0", 10]] if work == "lists" else None
        record.note({"type": "invoke", "process": f"2.{lane}", "work": work, "gid": gid, "value": value, "time": 20})
    record.give_up(2, 30)
    books = Books(money={"a": 90, "b": 110})
    books.transfers["T1"] = {"a": -10, "b": 10}
    ledgers = Ledgers(books=books, lists={"a/0": [1, 3], "b/0": [2, 4]})
    ledgers.holders = {("a", 1): "S1", ("a", 2): ""}
    ledgers.tickets = {"S1": ("a", 1, 1)}
    return record, ledgers


def told(record: Record, gid: str, ending: str) -> None:
    record.done[gid].ending = ending


def test_an_end_without_faults_is_clean() -> None:
    record, ledgers = ends()
    findings, history = examine(record, ledgers, MONEY, Isolation.ATOMIC, {})
    assert findings.wrong == []
    assert [op["process"] for op in history][-2:] == ["final", "final"]
    assert record.count("info") == 3


def test_what_nobody_knows_of_may_have_happened() -> None:
    record, ledgers = ends()
    ledgers.books.transfers["T9"] = {"a": 5, "b": -5}
    ledgers.tickets["S9"] = ("a", 2, 1)
    ledgers.holders["a", 2] = "S9"
    ledgers.lists = {"a/0": [1, 3, 9], "b/0": [2, 4, 10]}
    findings, _ = examine(record, ledgers, MONEY, Isolation.ATOMIC, {})
    assert findings.wrong == []


def halve_a_transfer(record: Record, ledgers: Ledgers) -> None:
    del ledgers.books.transfers["T1"]["a"]


def lose_a_transfer(record: Record, ledgers: Ledgers) -> None:
    del ledgers.books.transfers["T1"]


def abort_a_transfer_that_is_there(record: Record, ledgers: Ledgers) -> None:
    told(record, "T1", "fail")


def lose_money(record: Record, ledgers: Ledgers) -> None:
    ledgers.books.money["a"] -= 1


def change_a_balance(record: Record, ledgers: Ledgers) -> None:
    ledgers.books.wrong.append(("a", 1, 5))


def give_a_seat_twice(record: Record, ledgers: Ledgers) -> None:
    ledgers.tickets["S9"] = ("a", 1, 1)


def lose_a_ticket(record: Record, ledgers: Ledgers) -> None:
    del ledgers.tickets["S1"]


def give_the_seat_to_another(record: Record, ledgers: Ledgers) -> None:
    ledgers.holders["a", 1] = "S9"


def halve_an_unknown_append(record: Record, ledgers: Ledgers) -> None:
    ledgers.lists["a/0"].append(9)


def lose_appends(record: Record, ledgers: Ledgers) -> None:
    ledgers.lists = {"a/0": [1], "b/0": [2]}


def abort_appends_that_are_there(record: Record, ledgers: Ledgers) -> None:
    told(record, "L2", "fail")


def append_twice(record: Record, ledgers: Ledgers) -> None:
    ledgers.lists["a/0"].append(1)


def break_an_invariant(record: Record, ledgers: Ledgers) -> None:
    record.broken.append("the sky fell")


@pytest.mark.parametrize(
    ("crime", "words"),
    [
        (halve_a_transfer, "transfers happened by halves"),
        (lose_a_transfer, "transfers were told to be committed and are nowhere: T1"),
        (abort_a_transfer_that_is_there, "transfers were told to be aborted and are there: T1"),
        (lose_money, "the money was 200 and is 199"),
        (change_a_balance, "account 1 on a (+5)"),
        (give_a_seat_twice, "seat 1 on a, held by S1, has 2 tickets out"),
        (lose_a_ticket, "reservations were told to be committed and are nowhere: S1"),
        (give_the_seat_to_another, "seat 1 on a, held by S9"),
        (halve_an_unknown_append, "appended on some of their nodes only: L9"),
        (lose_appends, "appends of theirs are missing: L2"),
        (abort_appends_that_are_there, "appends of theirs are there: L2"),
        (append_twice, "appends are there twice: ('a/0', 1)"),
        (break_an_invariant, "the sky fell"),
    ],
)
def test_each_crime_is_convicted(crime: Callable[[Record, Ledgers], None], words: str) -> None:
    record, ledgers = ends()
    crime(record, ledgers)
    findings, _ = examine(record, ledgers, MONEY, Isolation.ATOMIC, {})
    assert words in "\n".join(findings.wrong)


def test_appends_in_two_orders_are_convicted_by_the_judge_alone() -> None:
    record, ledgers = ends()
    ledgers.lists = {"a/0": [1, 3], "b/0": [4, 2]}
    findings, _ = examine(record, ledgers, MONEY, Isolation.ATOMIC, {})
    assert {anomaly["name"] for anomaly in findings.anomalies} >= {"G0"}


Did = tuple[str, str, list[list[Any]]]


def seen(*transactions: Did) -> tuple[Record, Ledgers]:
    """Transactions and views, each in a process of its own and all at once: (gid, work, ops)."""
    record, ledgers = ends()
    for process, (gid, work, ops) in enumerate(transactions):
        asked = [[function, key, None if function == "r" else value] for function, key, value in ops]
        record.note(
            {
                "type": "invoke",
                "process": f"3.{process}",
                "work": work,
                "gid": gid,
                "value": asked,
                "time": 40,
                "why": "",
            }
        )
    for process, (_, _, ops) in enumerate(transactions):
        record.note({"type": "ok", "process": f"3.{process}", "value": ops, "time": 50, "why": ""})
        for function, key, value in ops:
            if function == "append":
                ledgers.lists.setdefault(key, []).append(value)
    return record, ledgers


BOTH: Did = ("W", "lists", [["append", "a/1", 51], ["append", "b/1", 52]])
HALF: list[list[Any]] = [["r", "a/1", [51]], ["r", "b/1", []]]
#: Each reads what the other appends to.
SKEW: tuple[Did, ...] = (
    ("W1", "lists", [["r", "b/1", []], ["append", "a/1", 51]]),
    ("W2", "lists", [["r", "a/1", []], ["append", "b/1", 52]]),
)
#: T1 read a before T2 wrote there, and was decided after it: a view in between sees T2 and not T1.
BETWEEN: tuple[Did, ...] = (
    ("T1", "lists", [["r", "a/1", []], ["append", "b/1", 52]]),
    ("T2", "lists", [["append", "a/1", 51]]),
    ("V", "view", HALF),
)


@pytest.mark.parametrize(
    ("transactions", "convicting"),
    [
        ((BOTH, ("R", "lists", HALF)), {Isolation.SNAPSHOT, Isolation.SERIALIZABLE}),
        ((BOTH, ("V", "view", HALF)), set(Isolation)),
        (SKEW, {Isolation.SERIALIZABLE}),
        (BETWEEN, set()),
    ],
    ids=["a reader saw half", "a view showed half", "write skew", "a view between two orders"],
)
def test_each_level_convicts_what_it_forbids(transactions: tuple[Did, ...], convicting: set[Isolation]) -> None:
    found = {isolation: examine(*seen(*transactions), MONEY, isolation, {})[0] for isolation in Isolation}
    assert {isolation for isolation, findings in found.items() if findings.wrong} == convicting


LOST = 99
#: LOST is nowhere at the end, and something else where it was seen.
LATER: Did = ("A", "lists", [["append", "a/1", 54], ["append", "b/1", 55]])
READ_LOST: list[list[Any]] = [["r", "a/1", [51, LOST]], ["r", "b/1", [52]]]
STAYED: list[list[Any]] = [["r", "a/1", [51]], ["r", "b/1", [52]]]


def writer_of_lost(record: Record, ending: str) -> None:
    """Somebody appended LOST, alone on his node, and this is what he was told."""
    at: dict[str, Any] = {"process": "4.0", "value": [["append", "a/1", LOST]], "why": ""}
    record.note({"type": "invoke", "work": "lists", "gid": "L", "time": 41, **at})
    record.note({"type": ending, "time": 49, **at})


def found(
    work: str, ops: list[list[Any]], died_ns: float, isolation: Isolation, ending: str = "info"
) -> tuple[bool, Any]:
    """Whether all is well, and what the history has of the reader of LOST, when the server died at ``died_ns``."""
    record, ledgers = seen(BOTH, LATER, ("R", work, ops))
    writer_of_lost(record, ending)
    findings, history = examine(record, ledgers, MONEY, isolation, {"a": died_ns})
    assert findings.lost_reads == sum("as_read" in op for op in history)
    (value,) = (op["value"] for op in history if (op["gid"], op["type"]) == ("R", "ok"))
    return not findings.wrong, value


@pytest.mark.parametrize("ending", ["info", "fail"])
def test_at_atomic_a_read_of_what_a_server_lost_is_cut_off_there(ending: str) -> None:
    assert found("lists", READ_LOST, 60, Isolation.ATOMIC, ending) == (True, STAYED)


@pytest.mark.parametrize(
    ("work", "ops", "died_ns", "isolation", "ending"),
    [
        ("lists", READ_LOST, 60, Isolation.ATOMIC, "ok"),
        ("lists", READ_LOST, 39, Isolation.ATOMIC, "info"),
        ("lists", READ_LOST, 60, Isolation.SNAPSHOT, "info"),
        ("lists", [["r", "b/1", [52, LOST]]], 60, Isolation.ATOMIC, "info"),
        ("lists", [["r", "a/1", [LOST, 51]]], 60, Isolation.ATOMIC, "info"),
        ("lists", [*READ_LOST, ["append", "a/2", 53]], 60, Isolation.ATOMIC, "info"),
        ("view", READ_LOST, 60, Isolation.ATOMIC, "info"),
    ],
    ids=[
        "its writer was told that it is committed",
        "the server died before it was read",
        "another level",
        "another server",
        "what came later stayed",
        "the reader wrote there",
        "a view",
    ],
)
def test_no_other_read_of_what_is_nowhere_is_cut(
    work: str, ops: list[list[Any]], died_ns: float, isolation: Isolation, ending: str
) -> None:
    assert not found(work, ops, died_ns, isolation, ending)[0]


def test_what_was_judged_is_told_with_all_that_holds() -> None:
    findings, _ = examine(*seen(*SKEW), MONEY, Isolation.SNAPSHOT, {})
    whole, appends = findings.judged
    assert (whole.promised, whole.transactions) == (Level.STRONG_SNAPSHOT_ISOLATION, 5)
    assert Level.STRONG_SNAPSHOT_ISOLATION in whole.holds
    assert Level.SERIALIZABLE not in whole.holds
    assert appends.holds == tuple(Level)


def test_the_same_seed_plans_the_same_and_each_kind_has_a_stream_of_its_own() -> None:
    servers = ("a", "b")
    whole = plan.draw(7, 600, tuple(Kind), servers, unprotected=False)
    assert whole == plan.draw(7, 600, tuple(Kind), servers, unprotected=False)
    assert whole != plan.draw(8, 600, tuple(Kind), servers, unprotected=False)
    some = (Kind.WORKER_KILL, Kind.DISK_FULL)
    assert plan.draw(7, 600, some, servers, unprotected=False) == [strike for strike in whole if strike.kind in some]
    assert len(whole) > 300
    rare = plan.draw(7, 600, tuple(Kind), servers, rarity=10, unprotected=False)
    assert len(rare) == pytest.approx(len(whole) / 10, abs=len(Kind))
    assert {strike.kind for strike in rare} == {strike.kind for strike in whole}
    for kind in (Kind.WORKER_KILL, Kind.WORKER_PAUSE):
        points = {strike.point for strike in whole if strike.kind is kind}
        assert points > {None, *gates.POINTS}
    assert not {strike.point for strike in whole if strike.server} - {None}
    assert {strike.kind for strike in plan.draw(7, 5, tuple(Kind), servers, unprotected=False)} == set(plan.EVERY_S)
