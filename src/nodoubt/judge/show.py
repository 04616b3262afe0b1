"""How keys, values and transactions are written for people."""

from __future__ import annotations

import json
from typing import Any

from nodoubt.judge.history import History

_ELEMENTS_MAX = 8
"""So many elements of a list are shown, the last ones; a reader of the words needs no more."""


def show(value: Any) -> str:
    """A key or a value; a list as ``[1 2 3]``, a long one by its end."""
    if isinstance(value, list | tuple):
        left_out = [f"({len(value) - _ELEMENTS_MAX} more)"] if len(value) > _ELEMENTS_MAX else []
        return f"[{' '.join([*left_out, *map(show, value[-_ELEMENTS_MAX:])])}]"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def show_transaction(history: History, number: int) -> str:
    """``T5 (process 1): r x [1 2], append y 3``."""
    ops = ", ".join(" ".join(show(part) for part in op) for op in history.ops[number])
    return f"T{number} (process {show(history.process[number])}): {ops}"
