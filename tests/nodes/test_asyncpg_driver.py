"""What asyncpg's errors are taken for."""

from __future__ import annotations

import pytest

from nodoubt.nodes.asyncpg_driver import AsyncpgDriver
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.failures import ConnectionLost
from tests.conftest import DatabaseFactory


async def test_a_fatal_answer_says_nothing_of_the_statement(database: DatabaseFactory) -> None:
    """A session may be ended after its PREPARE was carried out and before that was answered: never a definite no."""
    session = await AsyncpgDriver().connect(NodeSettings(url=database("postgresql")))
    with pytest.raises(ConnectionLost, match="administrator command"):
        await session.command("SELECT pg_terminate_backend(pg_backend_pid())")
    session.abandon()
