"""The identity row of a database: which node of which domain it is.

A swapped or duplicated URL is refused when the node is opened, not discovered during recovery.
"""

from __future__ import annotations

from typing import NamedTuple

from nodoubt.errors import ConfigError

#: Raised by one with each change of our tables; ``install`` migrates forward.
SCHEMA_VERSION = 1
#: How long ``install`` waits for a lock: for another installer of the same database, or for whoever uses its tables.
INSTALL_WAIT_S = 30


class Identity(NamedTuple):
    """What the database says of itself."""

    name: str
    domain: str
    id: str
    schema_version: int


def check_identity(found: Identity | None, name: str, domain: str) -> Identity:
    """Raise ConfigError unless the database is installed, current, and is the node that it is configured as; returns the row."""
    if found is None:
        raise ConfigError(f"node {name!r}: nodoubt's tables are missing", hint="run `nodoubt init`")
    check_migratable(found, name, domain)
    if found.schema_version < SCHEMA_VERSION:
        raise ConfigError(
            f"node {name!r}: its tables have schema {found.schema_version}, this nodoubt needs {SCHEMA_VERSION}",
            hint="run `nodoubt init`: it migrates forward",
        )
    return found


def check_same(found: Identity | None, database: str) -> None:
    """Raise ConfigError unless a new session has reached the database of this id: a name may have come to lead elsewhere."""
    if found is None or found.id != database:
        raise ConfigError(
            f"the URL leads to another database than when the node was opened{f': {found.name!r}' if found else ''}",
            hint="see where it leads now, and open the manager again",
        )


def check_migratable(found: Identity, name: str, domain: str) -> None:
    """Raise ConfigError unless the database is the node that it is configured as, and not newer than this nodoubt."""
    if found.domain != domain:
        raise ConfigError(
            f"node {name!r} reached a database of domain {found.domain!r}, not {domain!r}",
            hint="check the node's URL and the configured domain",
        )
    if found.name != name:
        raise ConfigError(
            f"node {name!r} reached the database that is node {found.name!r}",
            hint="two URLs are swapped, or one database is configured twice",
        )
    if found.schema_version > SCHEMA_VERSION:
        raise ConfigError(
            f"node {name!r}: its tables have schema {found.schema_version}, this nodoubt knows {SCHEMA_VERSION}",
            hint="upgrade nodoubt on this machine",
        )
