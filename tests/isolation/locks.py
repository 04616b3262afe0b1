"""Who waits, as the servers themselves tell: no clock decides it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pymysql

from nodoubt.engine.engine import Engine
from tests import plain

#: The lock table, not the processes' own word: a lock that was granted is not in it any more although its owner still sleeps.
_POSTGRESQL = (
    "SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE NOT granted AND application_name = 'nodoubt'"
)
Count = Callable[[], int]


@contextmanager
def watching(urls: Mapping[str, str], engine: Engine) -> Iterator[Count]:
    """Yields a function that counts the transactions which wait: for a lock on any node, or for another's opening."""
    servers = {(parts := urlsplit(url)).netloc: parts for url in urls.values()}
    counts: list[Count] = [
        partial(_waiting_on_sqlite, node) for name, node in engine.nodes.items() if urls[name].startswith("sqlite")
    ]
    counts.append(partial(_waiting_in_line, engine.openings._turns))
    with ExitStack() as stack:
        for parts in servers.values():
            if parts.scheme == "postgresql":
                postgresql = stack.enter_context(closing(psycopg.connect(parts.geturl(), autocommit=True)))
                counts.append(partial(_waiting_on_postgresql, postgresql))
            elif parts.scheme == "mariadb":
                mariadb = stack.enter_context(closing(plain.mariadb(parts.geturl())))
                counts.append(partial(_waiting_on_mariadb, mariadb))
        yield lambda: sum(count() for count in counts)


def _waiting_on_sqlite(node: Any) -> int:
    """SQLite tells nobody who waits: within a process, writers stand in the node's own line before they ask it."""
    return _waiting_in_line(node.sessions.turns)


def _waiting_in_line(turns: Any) -> int:
    return sum(not turn.done() for turn in turns._waiting)


def _waiting_on_postgresql(connection: psycopg.Connection[Any]) -> int:
    ((count,),) = connection.execute(_POSTGRESQL).fetchall()
    return int(count)


def _waiting_on_mariadb(connection: pymysql.Connection[Any]) -> int:
    """Read InnoDB's monitor: the tables of INFORMATION_SCHEMA that tell the same are a tenth of a second old."""
    with closing(connection.cursor()) as cursor:
        cursor.execute("SHOW ENGINE INNODB STATUS")
        ((_, _, text),) = cursor.fetchall()
    # An earlier section shows the last deadlock, and who waited in it.
    return len(re.findall(r"^LOCK WAIT ", text.rpartition("\nTRANSACTIONS\n")[2], re.MULTILINE))
