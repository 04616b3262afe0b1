"""What is sent to a database in memory and what becomes of it: calls, their fates, and the errors that answer them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Refused(Exception):
    """The database answered with an error; ``sqlstate``, as drivers call it, is one of the words below."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


DUPLICATE = "duplicate"
LOCKED = "locked"
MISSING = "missing"
READ_ONLY = "read-only"
ILLEGAL = "illegal"
INJECTED = "injected"
CHANGED = "changed"
LATE = "late"


class Lost(Exception):
    """No answer will come on this session any more."""


class Fate(StrEnum):
    """What becomes of one call."""

    FINE = "carried out and answered"
    REFUSED = "answered with an error, without any effect"
    LOST = "the connection breaks before it arrives"
    UNHEARD = "carried out, but the connection breaks before its answer"
    HELD = "on its way until `deliver`, even when its sender has hung up"
    CRASH = "the database stops before it"
    CRASH_AFTER = "the database stops after it, before its answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One packet that a session sends: its name, and its steps, each a verb and its arguments."""

    session: int
    name: str
    steps: tuple[tuple[Any, ...], ...]

    def __str__(self) -> str:
        return f"{self.name} {self.steps}"


Faults = Callable[[Call], Fate]


@dataclass(slots=True, kw_only=True, eq=False)
class Pending:
    """A call, what its steps gave so far and, once it is answered, the error that stopped it, if one did."""

    call: Call
    results: list[Any] = field(default_factory=list)
    refused: Refused | None = None
    is_answered: bool = False
