"""What the judge is compared with: all possible orders of a few transactions, tried one by one.

Only for histories of ok transactions, and by definition alone: serializable is an order in which each transaction reads what
those before it left; snapshot isolation is an order of starts and commits in which each reads what was committed before its
start, and nobody writes a key that somebody else committed since. The strong levels keep the order of sessions or of time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nodoubt.judge import Level

Store = Mapping[str, tuple[int, ...]]
Before = Callable[[int, int], bool]


class Transactions:
    """The transactions of a history, numbered by invocation."""

    def __init__(self, history: Sequence[Mapping[str, Any]]) -> None:
        self.ops: list[Sequence[Any]] = []
        self._process: list[Any] = []
        self._begin: list[int] = []
        self._end: dict[int, int] = {}
        running: dict[Any, int] = {}
        for place, event in enumerate(history):
            if event["type"] == "invoke":
                running[event["process"]] = len(self.ops)
                self.ops.append(())
                self._process.append(event["process"])
                self._begin.append(place)
            else:
                number = running.pop(event["process"])
                self.ops[number] = event["value"]
                self._end[number] = place
        self._all = frozenset(range(len(self.ops)))

    def after(self, store: Store, number: int) -> Store | None:
        """What a transaction that sees a store makes of it; None when it read something else."""
        seen = dict(store)
        for function, key, value in self.ops[number]:
            if function == "append":
                seen[key] = (*seen.get(key, ()), value)
            elif function == "w":
                seen[key] = (value,)
            elif list(seen.get(key, ())) != (value if isinstance(value, list) else [value] if value else []):
                return None
        return seen

    def writes(self, number: int) -> frozenset[str]:
        return frozenset(key for function, key, _ in self.ops[number] if function != "r")

    def in_real_time(self, one: int, other: int) -> bool:
        return self._end[one] < self._begin[other]

    def in_process(self, one: int, other: int) -> bool:
        return one < other and self._process[one] == self._process[other]

    def is_serial(self, before: Before, store: Store | None = None, done: frozenset[int] = frozenset()) -> bool:
        """Whether there is an order in which those that come before do."""
        if done == self._all:
            return True
        for number in self._all - done:
            if all(other in done for other in self._all if before(other, number)):
                left = self.after(store or {}, number)
                if left is not None and self.is_serial(before, left, done | {number}):
                    return True
        return False

    def is_snapshot(
        self,
        before: Before,
        store: Store | None = None,
        running: Mapping[int, tuple[Store, frozenset[str]]] | None = None,
        committed: frozenset[int] = frozenset(),
    ) -> bool:
        """Whether there is an order of starts and commits in which those that come before commit before the others start.

        ``running`` has for each running transaction what it will leave, and the keys that were committed since it started.
        """
        store, running = store or {}, running or {}
        if committed == self._all:
            return True
        for number in self._all - committed - running.keys():
            if all(other in committed for other in self._all if before(other, number)):
                left = self.after(store, number)
                if left is not None and self.is_snapshot(
                    before, store, {**running, number: (left, frozenset())}, committed
                ):
                    return True
        for number, (left, since) in running.items():
            keys = self.writes(number)
            if not keys & since:
                others = {other: (its, keys | more) for other, (its, more) in running.items() if other != number}
                if self.is_snapshot(
                    before, {**store, **{key: left[key] for key in keys}}, others, committed | {number}
                ):
                    return True
        return False


def _free(one: int, other: int) -> bool:
    return False


def holds(history: Sequence[Mapping[str, Any]]) -> dict[Level, bool]:
    """For each level but the two weakest, whether some order explains the history."""
    these = Transactions(history)
    return {
        Level.SNAPSHOT_ISOLATION: these.is_snapshot(_free),
        Level.STRONG_SESSION_SNAPSHOT_ISOLATION: these.is_snapshot(these.in_process),
        Level.STRONG_SNAPSHOT_ISOLATION: these.is_snapshot(these.in_real_time),
        Level.SERIALIZABLE: these.is_serial(_free),
        Level.STRONG_SESSION_SERIALIZABLE: these.is_serial(these.in_process),
        Level.STRICT_SERIALIZABLE: these.is_serial(these.in_real_time),
    }
