"""Short notations for histories.

A schedule like ``A( B( A) B! C( C?`` invokes (``(``) and ends transactions: ok (``)``), fail (``!``) or unknown (``?``). Ops are
one word each: ``ax1`` appends 1 to x, ``rx12`` reads [1, 2] there, ``rx`` reads nothing; in registers ``wx1`` and ``rx1``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ENDS = {")": "ok", "!": "fail", "?": "info"}


def ops(text: str, *, registers: bool = False) -> list[list[Any]]:
    """The ops of one transaction."""
    found: list[list[Any]] = []
    for word in text.split():
        key, values = word[1], [int(digit) for digit in word[2:]]
        match word[0]:
            case "a":
                found.append(["append", key, *values])
            case "w":
                found.append(["w", key, *values])
            case _ if registers:
                found.append(["r", key, values[0] if values else None])
            case _:
                found.append(["r", key, values or None])
    return found


def unread(done: list[list[Any]]) -> list[list[Any]]:
    """Ops as they were when the transaction was invoked: nothing is read yet."""
    return [[function, key, None if function == "r" else value] for function, key, value in done]


def record(
    schedule: str, transactions: Mapping[str, str], processes: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """A history. Each transaction has a process of its own, unless ``processes`` gives several of them the same."""
    registers = any(word.startswith("w") for text in transactions.values() for word in text.split())
    done = {name: ops(text, registers=registers) for name, text in transactions.items()}
    process = {name: (processes or {}).get(name, 10 + number) for number, name in enumerate(transactions)}
    history = []
    for name, sign in map(tuple, schedule.split()):
        if sign == "(":
            history.append({"type": "invoke", "process": process[name], "value": unread(done[name])})
        else:
            value = done[name] if sign == ")" else unread(done[name])
            history.append({"type": _ENDS[sign], "process": process[name], "value": value})
    return history


def together(transactions: Mapping[str, str]) -> list[dict[str, Any]]:
    """A history of transactions that all run at the same time, and all commit."""
    schedule = " ".join([*(f"{name}(" for name in transactions), *(f"{name})" for name in transactions)])
    return record(schedule, transactions)
