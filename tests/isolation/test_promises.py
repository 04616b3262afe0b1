"""What a transaction of a script asks for follows from its statements, and a run that breaks a promise is found."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pytest

from nodoubt import shared
from nodoubt.nodes.contract import Key
from tests.isolation.notation import Seen
from tests.isolation.promises import FORBIDS, Asked, breach, keys, nodes
from tests.isolation.scripts import SCRIPTS
from tests.isolation.verdict import Run

#: The row k = 1 of each node.
Row = Mapping[str, int]
HAPPENED = "it happened"
NOT_A_SNAPSHOT = "snapshot isolation does not explain it"
NOT_SERIAL = "no serial order explains it"


def ran(script: str, reads: Mapping[str, int], left: Row, *, before: str = "") -> Run:
    """A run in which all of a script's transactions committed. ``before`` names one that was over before another began."""
    state = {node: {1: left.get(node, 10), 2: 20} for node in "xyzw"}
    return Run(
        seen=Seen(reads=reads, committed=frozenset(SCRIPTS[script].names), state=state),
        waited=frozenset(),
        failed=frozenset(),
        given_up=frozenset(),
        before=frozenset({(before[:2], before[-2:])} if before else ()),
    )


TRANSFER = {"x": 12, "y": 18}
RUNS = {
    "half a transfer": ("g-single-lazy", ran("g-single-lazy", {"a": 10, "b": 18}, TRANSFER)),
    "an old report": ("g-single-lazy", ran("g-single-lazy", {"a": 10, "b": 10}, TRANSFER)),
    "a stale report": ("g-single-lazy", ran("g-single-lazy", {"a": 10, "b": 10}, TRANSFER, before="t2, t1")),
    "half a write": ("g-single-lazy", ran("g-single-lazy", {"a": 10, "b": 10}, {"x": 12})),
    "a lost update": ("p4", ran("p4", {"a": 10, "b": 10}, {"x": 12, "y": 12})),
    "write skew": ("p4-crossed", ran("p4-crossed", {"a": 10, "b": 10}, {"x": 11, "y": 11})),
    "write skew that is none": (
        "p4-crossed",
        ran("p4-crossed", {"a": 10, "b": 10}, {"x": 11, "y": 11}, before="t1, t2"),
    ),
    "each sees the other": ("g1c", ran("g1c", {"a": 22, "b": 11}, {"x": 11})),
}


@pytest.mark.parametrize(
    ("run", "at_snapshot", "at_serializable"),
    [
        ("half a transfer", HAPPENED, HAPPENED),
        ("an old report", "", ""),
        ("a stale report", NOT_A_SNAPSHOT, NOT_SERIAL),
        ("half a write", NOT_A_SNAPSHOT, NOT_SERIAL),
        ("a lost update", HAPPENED, HAPPENED),
        ("write skew", "", HAPPENED),
        ("write skew that is none", NOT_A_SNAPSHOT, HAPPENED),
        ("each sees the other", HAPPENED, HAPPENED),
    ],
)
def test_a_breach_is_found(run: str, at_snapshot: str, at_serializable: str) -> None:
    name, found = RUNS[run]
    assert breach(Asked.SNAPSHOT, SCRIPTS[name], found) == at_snapshot
    assert breach(Asked.SERIALIZABLE, SCRIPTS[name], found) == at_serializable
    assert breach(Asked.KEYS, SCRIPTS[name], found) == at_serializable


def test_views_are_promised_what_they_show_alone() -> None:
    for name, run in RUNS.values():
        reports = "it happened" if (name, run) == RUNS["half a transfer"] else ""
        assert breach(Asked.VIEWS, SCRIPTS[name], run) == reports


def test_each_level_forbids_what_weaker_ones_do() -> None:
    levels = [FORBIDS[asked] for asked in Asked]
    assert all(weaker <= stronger for weaker, stronger in pairwise(levels))
    assert SCRIPTS.keys() - FORBIDS[Asked.SNAPSHOT] == {"p4-crossed", "g2-item", "g2-item-read-only", "g2", "read-only"}


def test_nodes_follow_from_the_statements() -> None:
    assert nodes(SCRIPTS["p4-crossed"], "t1") == (["y"], ["x"])
    assert nodes(SCRIPTS["fractured-writer"], "t2") == (["x"], ["y"])
    assert nodes(SCRIPTS["long-fork"], "t3") == ([], ["y", "w", "x", "z"])


def test_keys_follow_from_the_statements() -> None:
    assert keys(SCRIPTS["g2-item"], "t1") == [shared("x row 1"), shared("y row 1"), Key(name="x row 1")]
    assert keys(SCRIPTS["pmp"], "t1") == [shared("x"), shared("y")]
    assert keys(SCRIPTS["pmp"], "t2") == [Key(name="x row 3"), Key(name="x"), Key(name="y row 3"), Key(name="y")]
