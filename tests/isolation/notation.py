"""How a script is written: named transactions take steps, one line each, in the order in which they are asked to.

    a = t1 from x: SELECT …       read in a branch that only reads; ``a`` is the value that was read
    t1 on x: UPDATE …             work in a branch that may write; ``{a}`` stands for what was read as ``a``
    t1 fails on x                 a statement fails, and the program goes on as if it had not
    t1 commits                    leave the block
    t1 commits, y held back       the same, and everything but the last word to its branch on y is done
    t1 goes on                    that word is given
    t1 rolls back

A transaction that waits takes its next steps when it goes on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

#: Every node's table before each script.
SETUP = ("DELETE FROM item", "INSERT INTO item VALUES (1, 10), (2, 20)")
TABLE = "CREATE TABLE item (k integer PRIMARY KEY, v integer NOT NULL)"
STATE = "SELECT k, v FROM item ORDER BY k"
NODES = ("x", "y", "z", "w")
#: The duplicate key of a transaction that fails.
FAILING = "INSERT INTO item VALUES (1, 0)"

_STATEMENT = re.compile(r"(?:(?P<label>\w+) = )?(?P<who>t\d) (?P<how>on|from) (?P<node>[xyzw]): (?P<sql>.+)")
_FAILS = re.compile(r"(?P<who>t\d) fails on (?P<node>[xyzw])")
_COMMITS = re.compile(r"(?P<who>t\d) commits(?:, (?P<held>[xyzw]) held back)?")
_GOES_ON = re.compile(r"(?P<who>t\d) goes on")
_ROLLS_BACK = re.compile(r"(?P<who>t\d) rolls back")


@dataclass(frozen=True, kw_only=True)
class Statement:
    """SQL on a node; ``label`` names what it reads."""

    who: str
    node: str
    sql: str
    read_only: bool = False
    label: str = ""
    fails: bool = False


@dataclass(frozen=True, kw_only=True)
class Commits:
    """Leave the block; ``held`` names the node whose branch hears of it later."""

    who: str
    held: str = ""


@dataclass(frozen=True, kw_only=True)
class GoesOn:
    """The branch that was held back hears of the end."""

    who: str


@dataclass(frozen=True, kw_only=True)
class RollsBack:
    """Undo everything."""

    who: str


Step = Statement | Commits | GoesOn | RollsBack


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a run showed: values by label, which transactions committed, and the tables afterwards."""

    reads: Mapping[str, Any]
    committed: frozenset[str]
    state: Mapping[str, Mapping[int, int]]

    def all_committed(self, *names: str) -> bool:
        return self.committed.issuperset(names)

    def __getattr__(self, label: str) -> Any:
        """A value by its label; None if its transaction never came to read it."""
        return self.reads.get(label)


@dataclass(frozen=True, kw_only=True)
class Script:
    """One way for transactions to overlap, and how to tell from a run that its anomaly happened."""

    name: str
    title: str
    #: What a user would notice.
    harm: str
    text: str
    occurred: Callable[[Seen], bool]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return tuple(parse(line.strip()) for line in self.text.strip().splitlines())

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The transactions, in the order of their first steps."""
        return tuple(dict.fromkeys(step.who for step in self.steps))

    @cached_property
    def aborting(self) -> frozenset[str]:
        """The transactions that abort by intention."""
        return frozenset(
            step.who
            for step in self.steps
            if isinstance(step, RollsBack) or (isinstance(step, Statement) and step.fails)
        )


def parse(line: str) -> Step:
    """Read one line. Raises ValueError."""
    if found := _STATEMENT.fullmatch(line):
        who, node, sql, label = found["who"], found["node"], found["sql"], found["label"] or ""
        return Statement(who=who, node=node, sql=sql, label=label, read_only=found["how"] == "from")
    if found := _FAILS.fullmatch(line):
        return Statement(who=found["who"], node=found["node"], sql=FAILING, fails=True)
    if found := _COMMITS.fullmatch(line):
        return Commits(who=found["who"], held=found["held"] or "")
    if found := _GOES_ON.fullmatch(line):
        return GoesOn(who=found["who"])
    if found := _ROLLS_BACK.fullmatch(line):
        return RollsBack(who=found["who"])
    raise ValueError(f"not a step: {line!r}")
