"""What the drivers of MariaDB and MySQL have in common: URLs, error numbers, and what their connections refuse.

aiomysql grew out of PyMySQL: both have the same connection, cursors and results. A user's cursor sends everything through
its connection's ``query``, whatever class it is of, so cursors are given the guarded connection instead of the driver's.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from nodoubt.errors import ConfigError, NodeUnavailable, NodoubtError
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.failures import CHECK_LOGIN, ConnectionLost, StatementFailed
from nodoubt.nodes.guard import BranchConnection, Guard, shorten
from nodoubt.nodes.statements import MYSQL, split

#: Capability of the protocol: several statements in one packet. Ours only; the guard holds users to one.
MULTI_STATEMENTS = 1 << 16
#: Status flag of the protocol: a transaction is open.
_IN_TRANSACTION = 1

_ENDS = "leaving the block ends the transaction; tx.rollback() aborts it"
_MINE = "the connection belongs to nodoubt for as long as it is open"
_LIMITS = {
    **dict.fromkeys(("begin", "commit", "rollback", "autocommit"), _ENDS),
    **dict.fromkeys(
        ("close", "ensure_closed", "connect", "_connect", "_execute_command", "kill", "ping"),
        _MINE,
    ),
    # The drivers close a connection that is left as a context.
    **dict.fromkeys(("__enter__", "__exit__", "__aenter__", "__aexit__"), _MINE),
    **dict.fromkeys(("select_db", "set_charset", "set_character_set", "decoders", "encoders"), ""),
}

#: Errors by which a server says goodbye: shutting down, dropping us, killed, idle for too long (MySQL 3169 and 4031).
_GOODBYES = {1053, 1077, 1078, 1079, 1080, 1152, 1153, *range(1156, 1162), 1184, 1927, 3169, 4031}
#: Access denied (for the database, for the password, by plugin), no such database, host not allowed, account locked.
_MISCONFIGURED = {1044, 1045, 1049, 1130, 1251, 1275, 1698, 3118, 4151}
_OPTIONS = ("charset", "ssl_ca", "ssl_cert", "ssl_key", "unix_socket")


def options(settings: NodeSettings) -> dict[str, Any]:
    """What both drivers take, by PyMySQL's names. Raises ConfigError for a URL that cannot be understood."""
    try:
        url = urlsplit(settings.url)
        port = url.port or 3306
        given = dict(parse_qsl(url.query, strict_parsing=bool(url.query)))
    except ValueError as error:
        raise ConfigError(f"cannot read the URL: {error}", hint="mariadb://user:password@host:3306/database") from error
    for name in given:
        if name not in _OPTIONS:
            close = difflib.get_close_matches(name, _OPTIONS, n=1)
            raise ConfigError(
                f"the URL has an unknown option {name!r}",
                hint=f"did you mean {close[0]!r}?" if close else f"known are {', '.join(_OPTIONS)}",
            )
    database = unquote(url.path.removeprefix("/"))
    if not database:
        raise ConfigError("the URL names no database", hint="mariadb://user:password@host:3306/database")
    return {
        "host": url.hostname or "127.0.0.1",
        "port": port,
        "user": unquote(url.username or ""),
        "password": unquote(url.password or ""),
        "database": database,
        "unix_socket": given.get("unix_socket"),
        "charset": given.get("charset", "utf8mb4"),
        "ssl": _ssl(given),
        "connect_timeout": settings.connect_timeout_s,
        **settings.options,
        "autocommit": True,
    }


def _ssl(given: Mapping[str, str]) -> ssl.SSLContext | None:
    if not any(name.startswith("ssl_") for name in given):
        return None
    try:
        context = ssl.create_default_context(cafile=given.get("ssl_ca"))
        if "ssl_cert" in given:
            context.load_cert_chain(given["ssl_cert"], given.get("ssl_key"))
    except OSError as error:
        raise ConfigError(f"cannot use the certificates that the URL names: {error}") from error
    return context


def understand(error: BaseException, *, from_driver: bool) -> StatementFailed | ConnectionLost:
    """The one place where errors are understood: an answer of the server, or no answer.

    ``from_driver`` says that the error is of the driver's own classes; the numbers of others mean something else. Numbers
    from 2000 to 2999 are the client's, for lost connections and for answers that it could not make out.
    """
    code = error.args[0] if from_driver and error.args else None
    if isinstance(code, int) and code >= 1000 and not 2000 <= code < 3000 and code not in _GOODBYES:
        message = str(error.args[1]) if len(error.args) > 1 else ""
        key = re.search(r"'([^']*)'\W*$", message) if code == 1062 else None
        return StatementFailed(str(code), message, key[1] if key else "")
    return ConnectionLost(f"{type(error).__name__}: {error}")


def refuse_login(error: BaseException, *, from_driver: bool) -> NodoubtError:
    """The error to raise when no connection came about."""
    code = error.args[0] if from_driver and error.args else None
    # The drivers say by RuntimeError that a package for the server's authentication is missing, by ValueError what is malformed.
    if code in _MISCONFIGURED or isinstance(error, ValueError | RuntimeError | TypeError):
        return ConfigError(f"cannot log in: {error}", hint=CHECK_LOGIN)
    return NodeUnavailable(f"cannot connect: {type(error).__name__}: {error}", hint="is the server running?")


@contextlib.contextmanager
def whole(raw: Any, *, cut: Callable[[Any], None], answers: type[Exception]) -> Iterator[None]:
    """Cut the line unless the server answered: a signal, a cancellation, another loop's refusal or the like may leave an answer
    unread, which the next text would take for its own."""
    try:
        yield
    except answers:
        raise
    except BaseException:
        cut(raw)
        raise


class MySQLConnection(BranchConnection):
    """The user's connection. The drivers add ``cursor``, ``query`` and what reads results, which all belong to one branch."""

    __slots__ = ()
    _limits = _LIMITS

    def statement(self, sql: str | bytes | bytearray) -> Guard:
        """Ask the guard for one statement of the user."""
        text = sql if isinstance(sql, str) else sql.decode("utf-8", "replace")
        self._guard.check_open()
        # Neither driver's cursors read further than the first error, and what was injected comes after a semicolon.
        if ";" in text and len(split(text, MYSQL)) > 1:
            raise self._guard.refuse(shorten(text), "one text carries one statement", "execute them one by one")
        guard: Guard = self._guard
        return guard.statement(text)

    def check_inside(self, sql: str | bytes | bytearray, before: int) -> None:
        """After a statement: the transaction must still be open, which a procedure can change in a read-only branch.

        ``before`` is the server's status before it: MySQL calls an XA transaction open once it touched a table.
        """
        if before & _IN_TRANSACTION and not self._raw.server_status & _IN_TRANSACTION:
            text = sql if isinstance(sql, str) else sql.decode("utf-8", "replace")
            raise self._guard.refuse(shorten(text), "it ended the transaction by itself")

    def adopt_unbuffered(self) -> None:
        """Rows that are still to come are read through this connection, so that their failure is noticed."""
        result = self._raw._result
        if result is not None and result.unbuffered_active:
            result.connection = self

    @property
    def _result(self) -> Any:
        # Cursors close themselves when they are collected; of a branch that is over they find nothing left to read.
        return None if self._guard.is_closed else self._raw._result
