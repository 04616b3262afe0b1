"""Connections of a plain driver, which know nothing of nodoubt."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pymysql


def mariadb(url: str, **options: Any) -> pymysql.Connection[Any]:
    """A connection to a MariaDB or MySQL server of our own, in auto-commit."""
    parts = urlsplit(url)
    login = {"host": parts.hostname, "port": parts.port, "user": parts.username, "database": parts.path[1:] or None}
    # PyMySQL would read all certificate authorities first, which takes longer than most of what is asked then.
    return pymysql.connect(**{**login, "autocommit": True, "ssl_disabled": True, **options})
