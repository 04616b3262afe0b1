"""The gate of a SQLite database: its write lock, taken as a branch takes it. Whoever decides holds that from his begin on."""

from __future__ import annotations

from collections.abc import Sequence

from nodoubt.nodes import sqlite_tables as tables
from nodoubt.nodes.apsw_driver import Session
from nodoubt.nodes.sqlite_sessions import Sessions
from nodoubt.nodes.world import World
from nodoubt.protocol.verdicts import HomeSays


class SQLiteGate:
    """See :class:`nodoubt.nodes.contract.Gate`. It is lost with its process alone, and then nobody is left to be told."""

    def __init__(self, world: World, sessions: Sessions, session: Session) -> None:
        self._world = world
        self._sessions = sessions
        self._session = session

    async def committed(self, gids: Sequence[str]) -> set[str]:
        return await self._world.aside(lambda: self._committed(gids))

    def _committed(self, gids: Sequence[str]) -> set[str]:
        with self._sessions.explained("show decisions"):
            rows = tables.decisions(self._session, gids)
        return {gid for gid, row in rows.items() if row.says in (HomeSays.COMMITTED, HomeSays.COMPLETE)}

    async def reopen(self) -> None:
        try:
            with self._sessions.explained("open its gate again"):
                self._session.command("ROLLBACK")
        finally:
            self._session.close()
