"""How long judging takes: in the length of a history, whatever is wrong with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import process_time
from typing import Any

import pytest

from nodoubt.judge import Level, judge

TRANSACTIONS = 100_000
CPU_S_MAX = 10.0
ELEMENTS_MAX = 60
"""Behind so many appends a key is left alone and a new one is taken, as generators of histories do."""

Fault = Callable[[random.Random, list[int]], list[int]]


def big_history(transactions: int, fault: Fault) -> list[dict[str, Any]]:
    """Transactions of three ops from ten processes over ten keys at a time, each done at the instant of its end.

    A fault changes what some reads see.
    """
    chance = random.Random(1)
    keys, database, running = list(range(10)), dict[int, list[int]](), dict[int, list[tuple[str, int]]]()
    history: list[dict[str, Any]] = []
    begun = 0
    while begun < transactions or running:
        process = chance.randrange(10)
        if process not in running:
            if begun < transactions:
                begun += 1
                running[process] = [(chance.choice(("r", "append")), chance.choice(keys)) for _ in range(3)]
                history.append({"type": "invoke", "process": process, "value": None})
            continue
        done = []
        for function, key in running.pop(process):
            values = database.setdefault(key, [])
            if function == "append":
                values.append(len(values))
                done.append([function, key, values[-1]])
                if len(values) == ELEMENTS_MAX:
                    keys[keys.index(key)] = max(keys) + 1
            else:
                done.append([function, key, fault(chance, values)])
        history.append({"type": "ok", "process": process, "value": done})
    return history


def clean(_: random.Random, values: list[int]) -> list[int]:
    return list(values)


def any_state(chance: random.Random, values: list[int]) -> list[int]:
    return values[: chance.randint(0, len(values))]


@pytest.mark.parametrize(("fault", "holds"), [(clean, True), (any_state, False)])
def test_a_hundred_thousand_transactions_are_judged_in_seconds(
    fault: Fault, holds: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    history = big_history(TRANSACTIONS, fault)
    start = process_time()
    verdict = judge(history)
    cpu_s = process_time() - start
    with capsys.disabled():
        print(
            f"\n{TRANSACTIONS:,} transactions of three ops ({fault.__name__}) judged at all levels in {cpu_s:.1f} s of CPU"
        )
    assert verdict.ok == TRANSACTIONS
    assert verdict.holds(Level.SNAPSHOT_ISOLATION) == verdict.holds(Level.STRICT_SERIALIZABLE) == holds
    assert cpu_s <= CPU_S_MAX


def test_a_node_that_lost_everything_is_judged_in_linear_time() -> None:
    """Each of the 50,000 readers of the key comes before each of its writers: too many edges to draw them one by one."""
    history: list[dict[str, Any]] = []
    for number in range(TRANSACTIONS):
        done = [["append", "x", number]] if number % 2 else [["r", "x", []]]
        history.append({"type": "invoke", "process": 0, "value": done})
        history.append({"type": "ok", "process": 0, "value": done})
    start = process_time()
    verdict = judge(history)
    assert [anomaly.name for anomaly in verdict.anomalies] == ["G-single-process"]
    assert process_time() - start <= CPU_S_MAX
