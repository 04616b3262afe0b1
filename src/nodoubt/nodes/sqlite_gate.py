"""The gate of a SQLite database: its write lock, taken as a branch takes it. Whoever decides holds that from his begin on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nodoubt.nodes import sqlite_tables as tables
from nodoubt.nodes.apsw_driver import Session
from nodoubt.nodes.contract import Listing
from nodoubt.protocol.verdicts import HomeSays

if TYPE_CHECKING:
    from nodoubt.nodes.sqlite import SQLiteNode


class SQLiteGate:
    """See :class:`nodoubt.nodes.contract.Gate`. It is lost with its process alone, and then nobody is left to be told."""

    def __init__(self, node: SQLiteNode, session: Session) -> None:
        self._node = node
        self._session = session

    async def prepared(self) -> Listing:
        return await self._node.prepared()

    async def committed(self, gids: Sequence[str]) -> set[str]:
        return await self._node.world.aside(lambda: self._committed(gids))

    def _committed(self, gids: Sequence[str]) -> set[str]:
        with self._node.sessions.explained("show decisions"):
            rows = tables.decisions(self._session, gids)
        return {gid for gid, row in rows.items() if row.says in (HomeSays.COMMITTED, HomeSays.COMPLETE)}

    async def reopen(self) -> None:
        try:
            with self._node.sessions.explained("open its gate again"):
                self._session.command("ROLLBACK")
        finally:
            self._session.close()
