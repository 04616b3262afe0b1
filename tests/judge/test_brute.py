"""On small random histories the judge says what trying all orders says."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from nodoubt.judge import Level, judge
from tests.judge.brute import holds

HISTORIES = 300
KEYS = ("x", "y")


class CarelessDatabase:
    """Commits in some order, and lets each transaction read what it likes: the state of now, of its start, or an older one."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._states: list[dict[str, list[int]]] = [{key: [] for key in KEYS}]
        self._values = 0

    @property
    def state(self) -> dict[str, list[int]]:
        return self._states[-1]

    def begin(self) -> tuple[list[list[Any]], dict[str, list[int]]]:
        """The ops of a new transaction, and the state that it starts with."""
        ops: list[list[Any]] = []
        for _ in range(self._chance.randint(1, 3)):
            key = self._chance.choice(KEYS)
            if self._chance.random() < 0.5:
                ops.append(["r", key, None])
            else:
                self._values += 1
                ops.append(["append", key, self._values])
        return ops, self._chance.choice([self.state, self.state, self._chance.choice(self._states)])

    def commit(self, ops: list[list[Any]], start: dict[str, list[int]]) -> list[list[Any]]:
        """The ops with what they read."""
        now = self.state
        seen = self._chance.choice([start, now])
        self._states.append({key: now[key] + [op[2] for op in ops if op[:2] == ["append", key]] for key in KEYS})
        done = []
        for function, key, value in ops:
            if function == "append":
                seen = {**seen, key: [*seen[key], value]}
            done.append([function, key, list(seen[key]) if function == "r" else value])
        return done


def random_history(chance: random.Random, *, read_at_end: bool) -> list[dict[str, Any]]:
    """Up to four transactions of two or three processes; at the end another one may read all keys."""
    database = CarelessDatabase(chance)
    processes = range(chance.randint(2, 3))
    running: dict[int, tuple[list[list[Any]], dict[str, list[int]]]] = {}
    left = chance.randint(2, 4)
    history: list[dict[str, Any]] = []
    while left or running:
        process = chance.choice(processes)
        if process in running:
            ops = database.commit(*running.pop(process))
            history.append({"type": "ok", "process": process, "value": ops})
        elif left:
            left -= 1
            running[process] = database.begin()
            history.append({"type": "invoke", "process": process, "value": running[process][0]})
    if read_at_end:
        reads: list[list[Any]] = [["r", key, None] for key in KEYS]
        history.append({"type": "invoke", "process": "last", "value": reads})
        history.append({"type": "ok", "process": "last", "value": database.commit(reads, database.state)})
    return history


@pytest.mark.parametrize("seed", range(4))
def test_it_says_what_all_orders_say(seed: int) -> None:
    chance = random.Random(seed)
    seen: Counter[tuple[Level, bool]] = Counter()
    for _ in range(HISTORIES):
        history = random_history(chance, read_at_end=True)
        verdict = judge(history)
        for level, truth in holds(history).items():
            assert verdict.holds(level) == truth, (level, history)
            seen[level, truth] += 1
    # Both answers were tried at every level.
    assert len(seen) == 12
    assert min(seen.values()) > HISTORIES / 20


def with_registers(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same history over registers: a read shows the last element alone."""
    return [
        {
            **event,
            "value": [
                ["r", key, value[-1] if value else None] if function == "r" else ["w", key, value]
                for function, key, value in event["value"]
            ],
        }
        for event in history
    ]


@pytest.mark.parametrize("registers", [False, True])
def test_it_says_nothing_that_is_not_so(registers: bool) -> None:
    chance = random.Random(0)
    convicted = 0
    for _ in range(2 * HISTORIES):
        history = random_history(chance, read_at_end=registers)
        history = with_registers(history) if registers else history
        verdict = judge(history)
        for level, truth in holds(history).items():
            assert verdict.holds(level) or not truth, (level, history)
            convicted += not verdict.holds(level)
    assert convicted > HISTORIES / 4
