"""The twin in TLA+ and the engine, run through everything, are the same protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prove.twin import PAIRS, compare


@pytest.mark.timeout(300)
@pytest.mark.parametrize("config", PAIRS)
def test_engine_and_twin_reach_the_same_states_by_the_same_steps(config: str, tmp_path: Path) -> None:
    compare(config, tmp_path)
