"""From a URL to a node: which dialect and which driver. Drivers are imported only when a URL asks for them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from nodoubt.errors import ConfigError
from nodoubt.nodes.contract import Node
from nodoubt.nodes.dialect import Dialect, Driver, NodeSettings
from nodoubt.nodes.mariadb import MariaDB
from nodoubt.nodes.postgresql import PostgreSQL
from nodoubt.nodes.sql import SqlNode
from nodoubt.nodes.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """A driver of ours: where it is, in which world it works, which extra installs it."""

    module: str
    factory: str
    extra: str


_ASYNC = {
    "postgresql": _Choice(module="asyncpg_driver", factory="AsyncpgDriver", extra="postgresql"),
    "postgresql+asyncpg": _Choice(module="asyncpg_driver", factory="AsyncpgDriver", extra="postgresql"),
    "postgresql+psycopg": _Choice(module="psycopg_driver", factory="AsyncPsycopgDriver", extra="postgresql"),
    "mariadb": _Choice(module="aiomysql_driver", factory="AiomysqlDriver", extra="mariadb"),
    "mariadb+aiomysql": _Choice(module="aiomysql_driver", factory="AiomysqlDriver", extra="mariadb"),
}
_SYNC = {
    "postgresql": _Choice(module="psycopg_driver", factory="PsycopgDriver", extra="postgresql"),
    "postgresql+psycopg": _Choice(module="psycopg_driver", factory="PsycopgDriver", extra="postgresql"),
    "mariadb": _Choice(module="pymysql_driver", factory="PymysqlDriver", extra="mariadb"),
    "mariadb+pymysql": _Choice(module="pymysql_driver", factory="PymysqlDriver", extra="mariadb"),
}
_SAME = {
    "postgres": "postgresql",
    "mysql": "mariadb",
    "mysql+aiomysql": "mariadb+aiomysql",
    "mysql+pymysql": "mariadb+pymysql",
}
_DIALECTS: dict[str, type[Dialect]] = {"postgresql": PostgreSQL, "mariadb": MariaDB}


def make_node(name: str, domain: str, settings: NodeSettings, world: World, *, asynchronous: bool) -> Node:
    """Make the node that a URL names. Raises ConfigError for an unknown scheme or a missing driver."""
    scheme = urlsplit(settings.url).scheme
    if scheme == "sqlite":
        return _sqlite(name, domain, settings, world)
    dialect, driver, settings = make_driver(name, settings, asynchronous=asynchronous)
    return SqlNode(name, domain, dialect=dialect, driver=driver, world=world, settings=settings)


def make_driver(name: str, settings: NodeSettings, *, asynchronous: bool) -> tuple[Dialect, Driver, NodeSettings]:
    """Make what connects to the server that a URL names, without a node around it; with the settings as the driver reads them.

    Raises as :func:`make_node` does.
    """
    scheme = urlsplit(settings.url).scheme
    kind = _SAME.get(scheme, scheme)
    choices = _ASYNC if asynchronous else _SYNC
    choice = choices.get(kind)
    if choice is None:
        world_kind = "asynchronous" if asynchronous else "synchronous"
        raise ConfigError(
            f"node {name!r}: no {world_kind} driver for {scheme or 'a URL without a scheme'!r}",
            hint=f"known are {', '.join([*choices, 'mysql', 'sqlite'])}",
        )
    driver: Driver = _load(choice, name)
    plain = kind.partition("+")[0]
    # Drivers know the plain scheme alone.
    settings = replace(settings, url=settings.url.replace(scheme, plain, 1))
    return _DIALECTS[plain](), driver, settings


def _sqlite(name: str, domain: str, settings: NodeSettings, world: World) -> Node:
    choice = _Choice(module="sqlite", factory="SQLiteNode", extra="sqlite")
    node: Node = _load(choice, name, name, domain, settings, world)
    return node


def _load(choice: _Choice, node: str, *arguments: object) -> Any:
    try:
        module = importlib.import_module(f"nodoubt.nodes.{choice.module}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"node {node!r} needs the package {error.name!r}", hint=f"pip install 'nodoubt[{choice.extra}]'"
        ) from error
    return getattr(module, choice.factory)(*arguments)
