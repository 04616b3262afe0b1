"""From recorded ops to transactions.

Lives here: pairing each invocation with its completion, and refusing what is not a history. A history is parallel lists with one
entry per transaction, in the order of invocation: a transaction is its number.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, Literal, cast

from nodoubt.errors import ConfigError

Model = Literal["list-append", "rw-register"]
Op = Sequence[Any]
"""``[function, key, value]``; the function is ``"r"``, or how its model writes."""

WRITES: Final[Mapping[str, Model]] = {"append": "list-append", "w": "rw-register"}

NEVER: Final = sys.maxsize
"""The end of a transaction whose outcome is unknown: it may take effect at any time."""


class Ending(IntEnum):
    """How a transaction ended, as far as its client knows."""

    OK = 0
    FAIL = 1
    UNKNOWN = 2


HINT: Final = "docs/judge.md describes the format"
"""What to do about a file that is none."""

_ENDINGS: Final = {"ok": Ending.OK, "fail": Ending.FAIL, "info": Ending.UNKNOWN}


@dataclass(slots=True)
class History:
    """Transactions in the order of invocation. ``begin`` and ``end`` are positions of ops in the record."""

    model: Model = "list-append"
    process: list[Any] = field(default_factory=list)
    begin: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    ending: list[Ending] = field(default_factory=list)
    ops: list[Sequence[Op]] = field(default_factory=list)
    source: str = ""
    """Where it was recorded, in front of every place in a complaint."""
    place: Callable[[int], str] = "op {}".format
    """Names the place of an op by its position."""

    def refuse(self, position: int, message: str, hint: str = HINT) -> ConfigError:
        """The complaint about one op."""
        return ConfigError(f"{self.source}{self.place(position)}: {message}", hint=hint)


def pair(
    events: Iterable[Mapping[str, Any]], source: str = "", place: Callable[[int], str] = "op {}".format
) -> History:
    """Read a history. Raises ConfigError, with the place of the op, for what is none, and for one without a transaction.

    The model is that of the first write. A transaction without completion counts as unknown. Reads of unknown transactions
    that have no value are left out: nobody knows what they read. A list that does not exist is empty.
    """
    history = History(source=source, place=place)
    running: dict[Any, int] = {}
    completed: list[Any] = []
    for position, event in enumerate(events):
        try:
            kind, process, value = event["type"], event["process"], event["value"]
            number = running.pop(process) if process in running else None
        except (TypeError, KeyError, AttributeError) as error:
            raise history.refuse(position, f"not an op with type, process and value ({error!r})") from None
        if kind == "invoke":
            if number is not None:
                raise history.refuse(position, f"process {process} invokes while its transaction is still running")
            running[process] = len(history.begin)
            history.process.append(process)
            history.begin.append(position)
            history.end.append(NEVER)
            history.ending.append(Ending.UNKNOWN)
            completed.append(value)
            continue
        ending = _ENDINGS.get(kind) if isinstance(kind, str) else None
        if ending is None:
            raise history.refuse(position, f"type is {kind!r}, not one of invoke, ok, fail, info")
        if number is None:
            raise history.refuse(position, f"process {process} completes what it has not invoked")
        history.ending[number] = ending
        if ending != Ending.UNKNOWN:
            history.end[number] = position
        if value is not None:
            completed[number] = value
    if not completed:
        raise ConfigError(f"{source}there is no transaction to judge", hint=HINT)
    history.model = _model(completed)
    for number, value in enumerate(completed):
        history.ops.append(_checked(history, number, value))
    return history


def _model(values: Iterable[Any]) -> Model:
    """That of the first write; without any, what is read tells a list from a register."""
    found: Model = "list-append"
    for value in values:
        for op in value if isinstance(value, list | tuple) else ():
            match op:
                case [str(function), _, _] if function in WRITES:
                    return WRITES[function]
                case ["r", _, str() | int() | float()]:
                    found = "rw-register"
    return found


def _checked(history: History, number: int, ops: Any) -> Sequence[Op]:
    """The ops of one transaction. Raises ConfigError for what its model does not know."""
    blank = False
    complaint = "" if isinstance(ops, list | tuple) else "its value is no list of ops"
    for op in () if complaint else ops:
        try:
            function, key, value = op
            hash(key)
        except (TypeError, ValueError):
            complaint = f"{op!r} is not [function, key, value]"
            break
        if function == "r":
            if value is None:
                blank = True
            elif history.model == "list-append" and not isinstance(value, list | tuple):
                complaint = f"a read of {key!r} gives {value!r}, not a list or null"
            elif history.model == "rw-register" and not isinstance(value, Hashable):
                complaint = f"a read of {key!r} gives {value!r}, not a single value or null"
        elif not isinstance(function, str) or WRITES.get(function) != history.model:
            complaint = f"{function!r} is no function of a {history.model} history"
        elif value is None or not isinstance(value, Hashable):
            complaint = f"{value!r} is written to {key!r}; a number or a string would do"
    if complaint:
        raise history.refuse(history.begin[number], f"process {history.process[number]!r}: {complaint}")
    if blank and history.ending[number] == Ending.UNKNOWN:
        return [op for op in ops if op[0] != "r" or op[2] is not None]
    if blank and history.ending[number] == Ending.OK and history.model == "list-append":
        return [("r", op[1], []) if op[0] == "r" and op[2] is None else op for op in ops]
    return cast(Sequence[Op], ops)
