"""Who waits, as the servers themselves tell: no clock decides it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pymysql

#: The lock table, not the processes' own word: a lock that was granted is not in it any more although its owner still sleeps.
_POSTGRESQL = (
    "SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE NOT granted AND application_name = 'nodoubt'"
)
Count = Callable[[], int]


@contextmanager
def watching(urls: Mapping[str, str], nodes: Mapping[str, Any]) -> Iterator[Count]:
    """Yields a function that counts the transactions which wait for a lock, on all nodes."""
    servers = {(parts := urlsplit(url)).netloc: parts for url in urls.values()}
    turns = [node.sessions.turns for name, node in nodes.items() if urls[name].startswith("sqlite")]
    connections: list[Any] = []
    counts: list[Count] = [lambda: sum(not turn.done() for line in turns for turn in line._waiting)]
    try:
        for parts in servers.values():
            if parts.scheme == "postgresql":
                postgresql = psycopg.connect(parts.geturl(), autocommit=True)
                connections.append(postgresql)
                counts.append(partial(_waiting_on_postgresql, postgresql))
            elif parts.scheme == "mariadb":
                mariadb = pymysql.connect(
                    host=parts.hostname or "", port=parts.port or 0, user=parts.username, autocommit=True
                )
                connections.append(mariadb)
                counts.append(partial(_waiting_on_mariadb, mariadb))
        yield lambda: sum(count() for count in counts)
    finally:
        for connection in connections:
            connection.close()


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
