"""A shop of three databases, the command in this process, and branches in doubt without a process that left them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from nodoubt.cli import main
from nodoubt.engine.worlds import AsyncWorld
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.registry import make_node
from nodoubt.protocol.ids import BranchId, new_gid
from nodoubt.testing.servers import PostgreSQLServer
from tests.conftest import DatabaseFactory

DOMAIN = "shop"


@dataclass(frozen=True, kw_only=True)
class Printed:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on stdout; a second line, or anything else there, is an error."""
        return json.loads(self.out)


Run = Callable[..., Printed]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("NODOUBT_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def run(*words: str) -> Printed:
        capsys.readouterr()
        code = main(words)
        captured = capsys.readouterr()
        return Printed(code=int(code), out=captured.out, err=captured.err)

    return run


def sql(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements, each by itself, and return the rows of the last."""

    async def go() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return [tuple(row) for row in await connection.fetch(statements[-1])]
        finally:
            await connection.close()

    return asyncio.run(go())


def write_config(nodes: dict[str, str], **settings: Any) -> Path:
    """Write nodoubt.toml into the working directory; by default without a grace period worth the name."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"domain": DOMAIN, "grace_s": 1e-6, **settings}.items()]
    lines += ["[nodes]", *(f'{name} = "{url}"' for name, url in nodes.items())]
    path = Path("nodoubt.toml")
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


class Shop:
    """Databases of a shop, configured in nodoubt.toml of the working directory."""

    def __init__(self, urls: dict[str, str]) -> None:
        self.urls = urls
        self._gids: Iterator[int] = iter(range(1, 100))
        write_config(urls)

    def gid(self) -> str:
        return new_gid(1_750_000_000_000, next(self._gids).to_bytes(10, "big"))

    def prepare(self, gid: str, branch: int, node: str, home: str, domain: str = DOMAIN) -> str:
        """Leave a prepared branch, as a process that crashed before the end of its transaction does."""
        text = BranchId(domain=domain, gid=gid, branch=branch, home=home).text()
        sql(
            self.urls[node],
            "CREATE TABLE IF NOT EXISTS work (gid text)",
            "BEGIN",
            f"INSERT INTO work VALUES ('{gid}')",
            f"INSERT INTO nodoubt.branch VALUES ('{gid}', {branch})",
            f"PREPARE TRANSACTION '{text}'",
            "SELECT 1",
        )
        return text

    def decide(self, gid: str, home: str, decision: str = "committed", participants: str = "{}") -> None:
        sql(
            self.urls[home],
            "INSERT INTO nodoubt.decision (gid, decision, participants)"
            f" VALUES ('{gid}', '{decision}', '{participants}')",
            "SELECT 1",
        )

    def worked(self, node: str) -> set[str]:
        """The gids whose work is committed on a node."""
        return {gid for (gid,) in sql(self.urls[node], "SELECT gid FROM work")}

    def prepared(self, node: str) -> list[str]:
        query = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY 1"
        return [gid for (gid,) in sql(self.urls[node], query)]

    def decision(self, node: str, gid: str) -> tuple[str, str] | None:
        rows = sql(self.urls[node], f"SELECT decision, reason FROM nodoubt.decision WHERE gid = '{gid}'")
        return (rows[0][0], rows[0][1]) if rows else None


@pytest.fixture
def bare_shop(database: DatabaseFactory) -> Shop:
    """Three databases without tables of ours."""
    return Shop({name: database("postgresql") for name in ("orders", "stock", "billing")})


@pytest.fixture(scope="session")
def furnished(postgresql: PostgreSQLServer) -> dict[str, str]:
    """Three databases with our tables, for the whole run: to make and drop them takes longer than most tests."""
    urls = {name: postgresql.create_database(f"shop_{name}") for name in ("orders", "stock", "billing")}
    for name, url in urls.items():
        node = make_node(name, DOMAIN, NodeSettings(url=url), AsyncWorld(), asynchronous=True)
        asyncio.run(node.install())
    return urls


@pytest.fixture
def shop(furnished: dict[str, str]) -> Iterator[Shop]:
    """Three databases with our tables and nothing in them. Nothing stays prepared: other tests want the server to stand still."""
    shop = Shop(furnished)
    yield shop
    for node, url in furnished.items():
        rollbacks = [f"ROLLBACK PREPARED '{gid}'" for gid in shop.prepared(node)]
        sql(url, *rollbacks, "DROP TABLE IF EXISTS work", "TRUNCATE nodoubt.decision, nodoubt.branch", "SELECT 1")
