"""The list of anomalies on every pair of kinds of nodes, at every level that their servers have.

Nothing here promises isolation between nodes yet. So these tests are the control: the anomalies must be found where they are.
"""

from __future__ import annotations

import pytest

from tests.conftest import DatabaseFactory
from tests.isolation.expected import load
from tests.isolation.grounds import GROUNDS
from tests.isolation.runner import verdicts

EXPECTED = load()


@pytest.mark.parametrize("title", GROUNDS)
async def test_each_anomaly_is_where_the_table_says(database: DatabaseFactory, title: str) -> None:
    found = await verdicts(GROUNDS[title], database)
    assert found.keys() == EXPECTED[title].keys()
    differences = [
        f"{script} at {level}: {word}, expected: {EXPECTED[title][level][script]}"
        for level, words in found.items()
        for script, word in words.items()
        if word != EXPECTED[title][level][script]
    ]
    assert differences == []
