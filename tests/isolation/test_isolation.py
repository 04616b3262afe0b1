"""The list of anomalies on every pair of kinds of nodes: at every level that their servers have, and at those that span nodes.

At "atomic" nothing is promised between nodes: there the tests are the control, and the anomalies must be found where they are.
"""

from __future__ import annotations

import pytest

from tests.conftest import DatabaseFactory
from tests.isolation.expected import load
from tests.isolation.grounds import GROUNDS
from tests.isolation.promises import breach
from tests.isolation.runner import runs
from tests.isolation.verdict import verdict

EXPECTED = load()


@pytest.mark.parametrize("title", GROUNDS)
async def test_promises_are_kept_and_each_anomaly_is_where_the_table_says(
    database: DatabaseFactory, title: str
) -> None:
    differences = []
    async for ground, script, run in runs(GROUNDS[title], database):
        word, expected = verdict(script, run), EXPECTED[title][ground.level][script.name]
        why = breach(ground.asked, script, run) or (f"expected: {expected}" if word != expected else "")
        if why:
            differences.append(f"{script.name} at {ground.level}: {word}, {why}")
    assert differences == []
