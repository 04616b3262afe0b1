"""How drivers tell the rest of the package what went wrong: two exceptions, made in one place per driver.

They never reach the user; the driver's own error is the ``__cause__``.
"""

from __future__ import annotations

#: What to do where a driver, or the server, does not take the login.
CHECK_LOGIN = "check user, password, port and database in the URL, and the node's options"


class StatementFailed(Exception):
    """The server answered with an error. ``code`` is its SQLSTATE or error number, ``constraint`` the key that was violated."""

    def __init__(self, code: str, message: str, constraint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.constraint = constraint


class ConnectionLost(Exception):
    """No answer came, or none that could be understood: the connection is gone and what was sent last is unknown."""


def too_late() -> StatementFailed:
    """A probe comes too late to insert a tombstone: see :meth:`nodoubt.nodes.contract.Node.probe`."""
    return StatementFailed("", "asked too late: what is asked about may have been decided and forgotten meanwhile")
