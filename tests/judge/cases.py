"""Minimal histories: for each anomaly one that shows it, and histories that show none; what is known of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nodoubt.judge import Level
from tests.judge.recorded import record, together

ALL = frozenset(Level)
RU = frozenset({Level.READ_UNCOMMITTED})
RC = RU | {Level.READ_COMMITTED}
SI = RC | {Level.SNAPSHOT_ISOLATION, Level.STRONG_SESSION_SNAPSHOT_ISOLATION, Level.STRONG_SNAPSHOT_ISOLATION}
NO_SESSIONS = RC | {Level.SNAPSHOT_ISOLATION, Level.SERIALIZABLE}
SESSIONS = NO_SESSIONS | {Level.STRONG_SESSION_SNAPSHOT_ISOLATION, Level.STRONG_SESSION_SERIALIZABLE}


@dataclass(frozen=True)
class Case:
    """A history, the anomalies that it shows, and the levels that it does not contradict."""

    title: str
    history: list[dict[str, Any]]
    anomalies: frozenset[str]
    holds: frozenset[Level]


def case(title: str, history: list[dict[str, Any]], anomalies: str, holds: frozenset[Level]) -> Case:
    return Case(title, history, frozenset(anomalies.split()), holds)


PLAIN = [
    case("dirty write", together({"A": "ax1 ay1", "B": "ax2 ay2", "C": "rx12 ry21"}), "G0", frozenset()),
    case(
        "dirty write unseen on one key",
        together({"A": "ax1 ay1", "B": "ax2 ay2", "C": "rx1 ry2"}),
        "G0 G-single",
        frozenset(),
    ),
    case("duplicate", together({"A": "ax1", "B": "rx11"}), "duplicate-elements", frozenset()),
    case("garbage", together({"A": "ax1", "B": "rx9"}), "garbage-read", RU),
    case("read of an abort", record("A( B( A! B)", {"A": "ax1", "B": "rx1"}), "G1a", RU),
    case(
        "update of an abort",
        record("A( B( C( A! B) C)", {"A": "ax1", "B": "ax2", "C": "rx12"}),
        "G1a dirty-update",
        RU,
    ),
    case(
        "read skew across an abort",
        record("A( F( B( C( D( A) F! B) C) D)", {"A": "ax1", "F": "ax2", "B": "ax3 ay1", "C": "rx1 ry1", "D": "rx123"}),
        "G1a dirty-update G-single",
        RU,
    ),
    case("intermediate read", together({"A": "ax1 ax2", "B": "rx1"}), "G1b G-single", RU),
    case("circle of reads", together({"A": "ax1 ry1", "B": "ay1 rx1"}), "G1c", RU),
    case("circle of a read and a write", together({"A": "ax1 ry1", "B": "ax2 ay1", "C": "rx12"}), "G1c", RU),
    case("contradiction", together({"A": "ax1", "B": "ax2", "C": "rx12", "D": "rx21"}), "incompatible-order", RU),
    case(
        "contradiction behind what is agreed",
        together({"A": "ax1", "B": "ax2", "C": "ax3", "D": "rx1 ay1", "E": "rx12", "F": "rx13 ry"}),
        "incompatible-order",
        RU,
    ),
    case("own write not read", together({"A": "ax1 rx"}), "internal", RC),
    case("own write read too early", together({"A": "rx1 ax1"}), "internal", RC),
    case("own write not last", together({"A": "ax1 rx12", "B": "ax2"}), "internal G1c", RU),
    case("two reads differ", together({"A": "rx rx1", "B": "ax1"}), "internal G-single", RC),
    case("lost update", together({"A": "rx ax1", "B": "rx ax2"}), "lost-update", RC),
    case("lost update, read later", together({"A": "rx ax1", "B": "rx ax2", "C": "rx12"}), "lost-update G-single", RC),
    case("read skew", together({"A": "ax1 ay1", "B": "rx1 ry"}), "G-single", RC),
    case("read skew by one version", together({"A": "ax1 ay1", "B": "ax2 ay2", "C": "rx12 ry1"}), "G-single", RC),
    case("write between", together({"A": "rx1 ax3", "B": "ax1", "C": "ax2", "D": "rx123"}), "G-single", RC),
    case("long fork", together({"A": "ax1", "B": "ay1", "C": "rx1 ry", "D": "ry1 rx"}), "G-nonadjacent", RC),
    case("write skew", together({"A": "rx ay1", "B": "ry ax1"}), "G2-item", SI),
    case(
        "write skew of three",
        together({"A": "rx ay1", "B": "ry az1", "C": "rz ax1", "D": "rx1 ry1 rz1"}),
        "G2-item",
        SI,
    ),
]

# Each cycle through an order: A ends before B begins, all others run at the same time as both.
_ORDERED = {
    "G0": {"A": "ax1", "B": "ax2", "C": "rx21"},
    "G1c": {"A": "rx1", "B": "ax1"},
    "G-single": {"A": "ax1", "B": "rx"},
    "G-nonadjacent": {"A": "ax1", "B": "ry", "C": "ay1", "D": "ry1 rx"},
    "G2-item": {"A": "ax1", "B": "ry", "C": "ay1 rx"},
}


def _ordered(name: str, processes: dict[str, int]) -> list[dict[str, Any]]:
    transactions = _ORDERED[name]
    others = [other for other in transactions if other not in "AB"]
    begins, ends = " ".join(f"{other}(" for other in others), " ".join(f"{other})" for other in others)
    return record(f"{begins} A( A) B( B) {ends}", transactions, processes)


PROCESS = [
    case(
        f"{name} in a process",
        _ordered(name, {"A": 0, "B": 0}),
        f"{name}-process",
        NO_SESSIONS if name != "G2-item" else SI | {Level.SERIALIZABLE},
    )
    for name in _ORDERED
]
REALTIME = [
    case(
        f"{name} in real time",
        _ordered(name, {}),
        f"{name}-realtime",
        SESSIONS if name != "G2-item" else ALL - {Level.STRICT_SERIALIZABLE},
    )
    for name in _ORDERED
]

UNKNOWN = [
    case("half of an unknown one", record("A( B( A? B)", {"A": "ax1 ay1", "B": "rx1 ry"}), "G-single", RC),
    case("unknown and not there", record("A( A? B( B)", {"A": "ax1 ay1", "B": "rx ry"}), "", ALL),
    case("unknown, and there later", record("A( A? B( B) C( C)", {"A": "ax1", "B": "rx", "C": "rx1"}), "", ALL),
    case(
        "unknown, and there later in the same process",
        record("A( A? B( B) C( C)", {"A": "ax1", "B": "rx", "C": "rx1"}, {"A": 0, "B": 0}),
        "",
        ALL,
    ),
    case("unknown without an end", record("A( B( B) C( C)", {"A": "ax1", "B": "rx", "C": "rx1"}), "", ALL),
    case("unknown, seen too early", record("B( B) A( A?", {"A": "ax1", "B": "rx1"}), "G1c-realtime", SESSIONS),
    case(
        "unknown, seen by one that was unknown until it was seen",
        record("A( B( C( A? B? C)", {"A": "ax1 ay1", "B": "ax2 az1", "C": "rx12 ry rz1"}),
        "G-single",
        RC,
    ),
    case("aborted and not there", record("A( A! B( B)", {"A": "ax1", "B": "rx"}), "", ALL),
]

LOST = [
    case("a lost write", record("A( A) B( B)", {"A": "ax1", "B": "rx"}), "G-single-realtime", SESSIONS),
    case(
        "two lost writes",
        record("A( A) B( B) C( C)", {"A": "ax1", "B": "ax2", "C": "rx"}),
        "G-single-realtime",
        SESSIONS,
    ),
    case(
        "half of two commits lost",
        together({"A": "ax1 ay1", "B": "ax2 ay2", "C": "rx12 ry"}),
        "G-single",
        RC,
    ),
    case(
        "the only reader among the writers that were lost",
        record("A( B( B) A)", {"A": "rx ax1 ry2", "B": "ax2 ay2"}),
        "G-single",
        RC,
    ),
    case("a lost write of one's own", record("A( A) B( B)", {"A": "rx ax1", "B": "rx"}), "G-single-realtime", SESSIONS),
]

FINE = [
    case("one by one", record("A( A) B( B) C( C)", {"A": "ax1", "B": "rx1 ax2", "C": "rx12"}), "", ALL),
    case("overlapping", record("A( B( B) A)", {"A": "ax1 ay1", "B": "rx ry"}), "", ALL),
    case("own writes read", together({"A": "ax1 rx1 ax2 rx12", "B": "rx12"}), "", ALL),
    case("own write in front of another's that is not seen", together({"A": "rx ax1", "B": "ax2"}), "", ALL),
    case("nothing read", together({"A": "ax1", "B": "ax2"}), "", ALL),
    case("nothing written", together({"A": "rx", "B": "ry"}), "", ALL),
]

REGISTERS = [
    case("register: garbage", together({"A": "wx1", "B": "rx9"}), "garbage-read", RU),
    case("register: read of an abort", record("A( B( A! B)", {"A": "wx1", "B": "rx1"}), "G1a", RU),
    case("register: intermediate read", together({"A": "wx1 wx2", "B": "rx1"}), "G1b", RU),
    case("register: circle of reads", together({"A": "wx1 ry1", "B": "wy1 rx1"}), "G1c", RU),
    case("register: own write not read", together({"A": "wx1 rx"}), "internal", RC),
    case("register: own write read too early", together({"A": "rx1 wx1"}), "internal", RC),
    case("register: two reads differ", together({"A": "rx1 rx2", "B": "wx1", "C": "wx2"}), "internal", RC),
    case("register: lost update", together({"A": "rx1 wx2", "B": "rx1 wx3", "C": "wx1"}), "lost-update", RC),
    case("register: lost update of nothing", together({"A": "rx wx2", "B": "rx wx3"}), "lost-update", RC),
    case("register: read skew", together({"A": "wx1 wy1", "B": "rx1 ry"}), "G-single", RC),
    case(
        "register: read skew behind the first version",
        together({"A": "wx1", "B": "rx1 wx2 wy2", "C": "ry2 rx1"}),
        "G-single",
        RC,
    ),
    case("register: long fork", together({"A": "wx1", "B": "wy1", "C": "rx1 ry", "D": "ry1 rx"}), "G-nonadjacent", RC),
    case("register: write skew", together({"A": "rx wy1", "B": "ry wx1"}), "G2-item", SI),
    case(
        "register: stale read in a process",
        record("A( A) B( B)", {"A": "wx1", "B": "rx"}, {"A": 0, "B": 0}),
        "G-single-process",
        NO_SESSIONS,
    ),
    case("register: stale read", record("A( A) B( B)", {"A": "wx1", "B": "rx"}), "G-single-realtime", SESSIONS),
    case("register: seen too early", record("B( B) A( A)", {"A": "wx1", "B": "rx1"}), "G1c-realtime", SESSIONS),
    case(
        "register: nothing read of two",
        record("A( A) B( B) C( C)", {"A": "wx1", "B": "wx2", "C": "rx"}),
        "G-single-realtime",
        SESSIONS,
    ),
    case("register: half of an unknown one", record("A( B( A? B)", {"A": "wx1 wy1", "B": "rx1 ry"}), "G-single", RC),
    case("register: blind writes", together({"A": "wx1 wy1", "B": "wx2 wy2", "C": "rx1 ry2"}), "", ALL),
    case("register: fine", record("A( A) B( B)", {"A": "wx1", "B": "rx1 wx2 rx2"}), "", ALL),
]

CASES = [*PLAIN, *PROCESS, *REALTIME, *UNKNOWN, *LOST, *FINE, *REGISTERS]
