"""What a proxy does to which request: faults as data, and schedules of them drawn from a seed."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self


class Statement(StrEnum):
    """A request that a fault can be tied to, by what it asks of the server."""

    PREPARE = "prepare"
    DECIDE = "decide"
    COMMIT_BRANCH = "commit a branch"
    ROLLBACK_BRANCH = "roll a branch back"
    PROBE = "probe"
    COMPLETE = "mark complete"
    PURGE = "purge"
    CLOSE_GATE = "close a gate"
    OPEN_GATE = "open a gate"
    COMMIT = "any other commit"


_PATTERNS: Final[Mapping[Statement, str]] = {
    Statement.PREPARE: r"\bPREPARE TRANSACTION\b|\bXA PREPARE\b",
    # Not the text that only defines the prepared statement.
    Statement.DECIDE: r"\bEXECUTE nodoubt_decide\b|(?<!AS )\bINSERT INTO \S*nodoubt[._]decision\b.*'committed'",
    Statement.COMMIT_BRANCH: r"\bCOMMIT PREPARED\b|\bXA COMMIT\b",
    Statement.ROLLBACK_BRANCH: r"\bROLLBACK PREPARED\b|\bXA ROLLBACK\b",
    # Not what only tries out its privileges and is rolled back.
    Statement.PROBE: r"^(?!.*\bROLLBACK$).*\bINSERT INTO \S*nodoubt[._]decision\b.*'aborted'",
    Statement.COMPLETE: r"\bUPDATE \S*nodoubt[._]decision SET (?:decided_at = .*, )?complete\b",
    Statement.PURGE: r"^(?!.*\bROLLBACK$).*\bDELETE FROM \S*nodoubt[._]decision\b",
    Statement.CLOSE_GATE: r"\bLOCK TABLE \S*nodoubt\.node IN SHARE MODE\b|\bLOCK TABLES \S*nodoubt_node WRITE\b",
    Statement.OPEN_GATE: r"\bUNLOCK TABLES\b",
    # PostgreSQL's gates are opened by a bare one.
    Statement.COMMIT: r"\bCOMMIT\b",
}
_TEXTS: Final = {
    statement: re.compile(pattern.encode(), re.IGNORECASE | re.DOTALL) for statement, pattern in _PATTERNS.items()
}


def recognise(text: bytes) -> Statement | None:
    """What a request's SQL is, the first of :class:`Statement` that its text holds; None for everything else."""
    return next((statement for statement, pattern in _TEXTS.items() if pattern.search(text)), None)


class Arrives(StrEnum):
    """How much of the request the server gets before the fault."""

    NOTHING = "nothing"
    HALF = "half of it"
    ALL = "all of it, but the reply is not passed back"
    TWICE = "all of it, twice"


class Then(StrEnum):
    """What happens to the connection."""

    CUT = "both sides are cut"
    STALL = "it is half-open: neither side learns anything any more"
    DELAY = "it waits, even for a client that is gone, and goes on when released"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault: the ``number``-th request of a kind over all connections of a proxy, counted from 1.

    Raises ValueError for a delayed request that arrives twice: no client can read two replies.
    """

    statement: Statement
    number: int = 1
    arrives: Arrives
    then: Then

    def __post_init__(self) -> None:
        if (self.arrives, self.then) == (Arrives.TWICE, Then.DELAY):
            raise ValueError("a request that arrives twice is answered twice: cut it or stall it")

    def __str__(self) -> str:
        return f"{self.statement} {self.number}: {self.arrives.name.lower()} arrives, {self.then.name.lower()}"


_SHAPES: Final = tuple(pair for pair in itertools.product(Arrives, Then) if pair != (Arrives.TWICE, Then.DELAY))


@dataclass(frozen=True, slots=True)
class Schedule:
    """The faults of one run of a proxy, at most one for each request."""

    faults: tuple[Fault, ...] = ()

    @classmethod
    def drawn(
        cls, seed: int, *, rate: float, requests: int, statements: Collection[Statement] = tuple(Statement)
    ) -> Self:
        """Draw faults at random; the same arguments give the same schedule, on every machine.

        Args:
            seed: where the random stream begins.
            rate: the part of the requests that is hit, from 0 to 1.
            requests: how many requests of each kind the schedule covers.
            statements: the kinds that may be hit; each has a random stream of its own.
        """
        faults = []
        for statement in statements:
            stream = random.Random(f"{seed}/{statement}")
            for number in range(1, requests + 1):
                if stream.random() < rate:
                    arrives, then = stream.choice(_SHAPES)
                    faults.append(Fault(statement=statement, number=number, arrives=arrives, then=then))
        return cls(tuple(faults))
