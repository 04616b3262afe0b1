"""A person's order, and somebody who was faster."""

from __future__ import annotations

import pytest

from nodoubt.engine.config import load
from nodoubt.engine.reach import nodes_of, reach
from nodoubt.engine.resolve import Plan, carry_out
from nodoubt.errors import ConfigError, NodoubtError
from nodoubt.protocol.ids import new_gid
from nodoubt.protocol.verdicts import HomeSays
from tests.conftest import DatabaseFactory

GID = new_gid(0, bytes(10))


async def test_a_decision_that_was_there_first_stands(database: DatabaseFactory) -> None:
    config = load({"stock": database("postgresql")}, domain="shop")
    with pytest.raises(ConfigError, match="tables are missing"):
        async with reach(config):
            pass
    for node in nodes_of(config):
        await node.install()
    async with reach(config) as engine:
        assert await engine.nodes["stock"].probe([GID]) == {GID: HomeSays.FRESH}
        order = Plan(gid=GID, commit=True, home="orders", at="stock", why="home is lost", prepared={})
        with pytest.raises(NodoubtError, match="told otherwise meanwhile: aborted"):
            await carry_out(engine, order, "because")
