"""Where a scenario takes place: servers of our own for each scenario, or nodes that were given.

Given databases are left with nodoubt's tables and without the bench's.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nodoubt.bench.lines import KINDS, Line, kind_of
from nodoubt.bench.work import DOMAIN, TABLE, Options
from nodoubt.engine.worlds import AsyncWorld
from nodoubt.errors import ConfigError
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.registry import make_node
from nodoubt.testing.servers import MariaDBServer, PostgreSQLServer, Server, ServerMissing


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The nodes of one scenario, by their URLs, and the servers behind them when they are our own."""

    urls: Sequence[str]
    servers: Sequence[Server] = ()

    @property
    def cpu_s(self) -> float | None:
        """Seconds of CPU that our servers have used; None when they are not ours."""
        return sum(server.cpu_s for server in self.servers) if self.servers else None

    async def connect(self) -> list[Line]:
        """A line to each node."""
        return [await KINDS[kind_of(url)].connect(url) for url in self.urls]

    async def furnish(self) -> list[str]:
        """Make the bench's tables; return the servers' versions."""
        versions = []
        async with self.lines() as lines:
            for line, url in zip(lines, self.urls, strict=True):
                kind = KINDS[kind_of(url)]
                for statement in kind.make_table():
                    await line.run(statement)
                ((version,),) = await line.query(kind.version)
                versions.append(str(version))
        return versions

    async def clear(self) -> None:
        """Drop the bench's tables from nodes that are not ours; our own servers go as a whole."""
        if not self.servers:
            async with self.lines() as lines:
                for line in lines:
                    await line.run(f"DROP TABLE IF EXISTS {TABLE}")

    @contextlib.asynccontextmanager
    async def lines(self) -> AsyncIterator[list[Line]]:
        """Lines for a short while."""
        lines = await self.connect()
        try:
            yield lines
        finally:
            for line in lines:
                await line.close()


async def install(urls: Sequence[str]) -> list[str]:
    """Make nodoubt's tables, as `nodoubt init` does; return the nodes' names."""
    world = AsyncWorld()
    names = [f"n{number}" for number in range(len(urls))]
    for name, url in zip(names, urls, strict=True):
        await make_node(name, DOMAIN, NodeSettings(url=url), world, asynchronous=True).install()
    return names


@contextlib.contextmanager
def ground(kinds: Sequence[str], options: Options, *, branches_max: int | None = None) -> Iterator[Ground]:
    """The given nodes if there are any, else new servers of these kinds, for so many prepared branches at once."""
    if options.nodes:
        yield Ground(urls=chosen(kinds, options.nodes))
        return
    with contextlib.ExitStack() as stack:
        try:
            servers = [stack.enter_context(_start(kind, options.clients, branches_max)) for kind in kinds]
        except ServerMissing as error:
            raise ConfigError(str(error), hint="install it, or name servers with --nodes") from error
        yield Ground(urls=[server.url for server in servers], servers=servers)


def chosen(kinds: Sequence[str], nodes: Mapping[str, str]) -> list[str]:
    """The URLs that serve as these kinds, in this order; ConfigError when one is missing."""
    left = list(nodes.values())
    urls = []
    for kind in kinds:
        url = next((url for url in left if kind_of(url) == kind), None)
        if url is None:
            raise ConfigError(
                f"the scenario needs {' and '.join(kinds)} nodes", hint="name them with --nodes a=URL b=URL"
            )
        left.remove(url)
        urls.append(url)
    return urls


def _start(kind: str, clients: int, branches_max: int | None) -> Server:
    # Each contestant holds a connection per client all the time.
    connections = str(100 + 6 * clients)
    if kind == "mariadb":
        return MariaDBServer.start({"max_connections": connections})
    return PostgreSQLServer.start(
        {
            "max_connections": connections,
            "max_prepared_transactions": str(branches_max or 10 * clients),
            # A checkpoint in the middle of somebody's lap would be luck, not speed.
            "checkpoint_timeout": "1h",
            "max_wal_size": "8GB",
        }
    )
