"""Shops that each public manager, or some of them, opens."""

from __future__ import annotations

import pytest

from tests.conftest import DatabaseFactory
from tests.engine.shops import MANAGERS, Shop


@pytest.fixture(params=MANAGERS)
def shop(request: pytest.FixtureRequest, database: DatabaseFactory) -> Shop:
    return Shop(request.param, database)


@pytest.fixture
def sync_shop(database: DatabaseFactory) -> Shop:
    return Shop("sync", database)


@pytest.fixture(params=MANAGERS[1:])
def async_shop(request: pytest.FixtureRequest, database: DatabaseFactory) -> Shop:
    return Shop(request.param, database)
