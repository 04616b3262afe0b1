"""Whoever opens or installs a node whose server takes the connection and then does not answer waits for a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from nodoubt.engine.worlds import AsyncWorld, ThreadWorld, run_now
from nodoubt.errors import NodeUnavailable
from nodoubt.nodes import mariadb, postgresql_tables
from nodoubt.nodes.contract import Node
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.registry import make_node
from tests import plain
from tests.conftest import DatabaseFactory, ServerName

LIMIT_S = 1.0
WHO: dict[str, ServerName] = {
    "postgresql+asyncpg": "postgresql",
    "postgresql+psycopg": "postgresql",
    "mariadb+aiomysql": "mariadb",
    "mariadb+pymysql": "mariadb",
}
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=WHO)
def node(request: pytest.FixtureRequest, database: DatabaseFactory) -> Iterator[tuple[Node, Run]]:
    """A node, installed, whose identity somebody else has locked away; and what runs its steps."""
    driver: str = request.param
    where = WHO[driver]
    url = database(where)
    is_asynchronous = driver != "mariadb+pymysql"
    world = AsyncWorld() if is_asynchronous else ThreadWorld()
    settings = NodeSettings(url=url.replace(where, driver, 1), connect_timeout_s=LIMIT_S)
    made = make_node("here", "shop", settings, world, asynchronous=is_asynchronous)
    with asyncio.Runner() as runner:
        run: Run = runner.run if is_asynchronous else run_now
        run(made.install())
        other: Any = psycopg.connect(url) if where == "postgresql" else plain.mariadb(url)
        with closing(other):
            other.cursor().execute(
                "LOCK TABLE nodoubt.node IN ACCESS EXCLUSIVE MODE"
                if where == "postgresql"
                else "LOCK TABLES nodoubt_node WRITE"
            )
            yield made, run
        run(made.close())
    if isinstance(world, ThreadWorld):
        world.close()


def test_opening_gives_up(node: tuple[Node, Run]) -> None:
    made, run = node
    with pytest.raises(NodeUnavailable, match="node 'here' cannot be opened") as caught:
        run(made.open())
    assert caught.value.retryable


def test_looking_gives_up(node: tuple[Node, Run]) -> None:
    made, run = node
    (finding,) = run(made.inspect())
    assert (finding.check, finding.level) == ("reachable", "error")
    assert finding.text.startswith("lost while looking: ")


def test_installing_gives_up(node: tuple[Node, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    for dialect in (postgresql_tables, mariadb):
        monkeypatch.setattr(dialect, "INSTALL_WAIT_S", 1)
    made, run = node
    with pytest.raises(NodeUnavailable, match=r"node 'here' could not be installed: (?i:.*lock.*time)"):
        run(made.install())
