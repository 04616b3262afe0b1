"""Home's gate on a database server: a lock in a session of its own, which nobody needs for settling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nodoubt.errors import NodeUnavailable
from nodoubt.nodes.contract import Listing
from nodoubt.nodes.dialect import Session

if TYPE_CHECKING:
    from nodoubt.nodes.sql import SqlNode

#: Connections for gates, and for what is asked behind them, of one process to one node.
GATES_MAX = 4
#: How long the server has to say that the gate was closed all the time.
REOPEN_S_MAX = 2.0


class SqlGate:
    """See :class:`nodoubt.nodes.contract.Gate`. The session holds the lock and does nothing else, so the server can time it."""

    def __init__(self, node: SqlNode, session: Session) -> None:
        self._node = node
        self._session: Session | None = session

    async def prepared(self) -> Listing:
        return await self._node.listed()

    async def committed(self, gids: Sequence[str]) -> set[str]:
        return await self._node.committed(gids)

    async def reopen(self) -> None:
        session, self._session = self._session, None
        if session is None:
            raise NodeUnavailable(f"the gate of node {self._node.name!r} is not closed", retryable=False)
        await self._node.reopen_gate(session)
