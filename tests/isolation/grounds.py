"""Where scripts run: which kinds of nodes, and which isolation level each of them is set to, as a user would set it.

A level is part of the connection. On PostgreSQL ``SET TRANSACTION ISOLATION LEVEL`` as a block's first statement does the same
for one transaction; MariaDB refuses it, as the branch is open by then, so there it can only be an option of the node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.isolation.notation import NODES
from tests.isolation.promises import Asked

NAMES = {"postgresql": "PostgreSQL", "mariadb": "MariaDB", "sqlite": "SQLite"}
RU, RC, RR, SER = "READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"
#: MariaDB's REPEATABLE READ with `innodb_snapshot_isolation`, which refuses to write over what the snapshot does not show.
SI = "SNAPSHOT"


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Kinds and levels of nodes. With a third node, that one is every transaction's home."""

    #: Fixture names of the servers of x and y, and of a third node if there is one.
    servers: tuple[str, ...]
    #: The level of each kind of node that has several.
    levels: Mapping[str, str]
    #: What is asked of all nodes together; beyond "atomic", the nodes' own levels are those that the servers come with.
    asked: Asked = Asked.ATOMIC

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(server.rstrip("2") for server in self.servers)

    @property
    def title(self) -> str:
        """Which kinds, in words."""
        return " + ".join(NAMES[kind] for kind in self.kinds)

    @property
    def level(self) -> str:
        """What is asked, and of atomic transactions which levels of the nodes, in words: each level once."""
        if self.asked is not Asked.ATOMIC:
            return str(self.asked)
        levels = list(dict.fromkeys(self.levels.values()))
        if len(levels) < 2:
            return levels[0] if levels else "SERIALIZABLE"
        return ", ".join(f"{NAMES[kind]} {level}" for kind, level in self.levels.items())

    @property
    def home(self) -> str | None:
        """The home that transactions name; otherwise it is the first node that they write to."""
        return "z" if len(self.servers) > 2 else None

    def server(self, node: str) -> str:
        """Whose server a node is on: four nodes for two or three servers."""
        return self.servers[NODES.index(node) % len(self.servers)]

    def settings(self, node: str, url: str) -> dict[str, Any]:
        """A node as a configuration has it."""
        kind = self.server(node).rstrip("2")
        level = self.levels.get(kind)
        if level is None:
            return {"url": url}
        if kind == "postgresql":
            option = quote(f"-c default_transaction_isolation={level.replace(' ', chr(92) + ' ')}")
            return {"url": f"{url}?options={option}"}
        set_level = f"SET SESSION TRANSACTION ISOLATION LEVEL {level}"
        set_snapshot = "SET SESSION innodb_snapshot_isolation = ON"
        return {"url": url, "options": {"init_command": set_snapshot if level == SI else set_level}}


_POSTGRESQL = tuple({"postgresql": level} for level in (RC, RR, SER))
_MARIADB = tuple({"mariadb": level} for level in (RU, RC, RR, SI, SER))
_BOTH = tuple({"postgresql": level, "mariadb": level} for level in (RC, RR, SER))
#: The levels of each pair's kinds. The order of a pair matters: home is where a writer begins, and it commits first.
_PAIRS: Mapping[tuple[str, ...], tuple[Mapping[str, str], ...]] = {
    ("postgresql", "postgresql2"): _POSTGRESQL,
    ("postgresql", "mariadb"): (*_BOTH, {"postgresql": RR, "mariadb": SI}),
    ("mariadb", "postgresql"): (*_BOTH, {"mariadb": SI, "postgresql": RR}),
    ("mariadb", "mariadb"): _MARIADB,
    ("postgresql", "sqlite"): _POSTGRESQL,
    ("sqlite", "postgresql"): _POSTGRESQL,
    ("mariadb", "sqlite"): _MARIADB,
    ("sqlite", "mariadb"): _MARIADB,
    ("sqlite", "sqlite"): ({},),
    ("postgresql", "mariadb", "sqlite"): _BOTH,
    ("sqlite", "postgresql", "mariadb"): _BOTH,
}
#: The grounds by their kinds of nodes.
GROUNDS: Mapping[str, Sequence[Ground]] = {
    grounds[0].title: grounds
    for servers, all_levels in _PAIRS.items()
    for grounds in [
        [
            *(Ground(servers=servers, levels=levels) for levels in all_levels),
            *(Ground(servers=servers, levels={}, asked=asked) for asked in Asked if asked is not Asked.ATOMIC),
        ]
    ]
}
