"""Writes down what a session is answered."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from nodoubt.nodes.dialect import Row, Session
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from tests.fidelity.names import Names


@dataclass(kw_only=True)
class Recorder:
    """Stands before a session and writes down what that is answered."""

    inner: Session
    names: Names
    said: list[str]
    is_quiet: bool = False
    #: What would end the transaction is left out.
    holds: bool = False

    @property
    def token(self) -> str:
        return self.inner.token

    def begin_later(self, sql: str) -> bool:
        return self.inner.begin_later(sql)

    async def command(self, sql: str) -> str:
        tag: str = await self._noted(self.inner.command(sql))
        self._say(f"= {tag}")
        return tag

    async def query(self, sql: str) -> Sequence[Row]:
        rows: Sequence[Row] = await self._noted(self.inner.query(sql.removesuffix(";COMMIT") if self.holds else sql))
        shown = self.names.rows([row for row in rows if "RECOVER" not in sql or self.names.is_ours(row[-1])])
        # Where nothing is said of an order there is none.
        self._say(f"= {shown if 'ORDER BY' in sql else sorted(shown, key=repr)}")
        return rows

    async def _noted(self, answer: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await answer
        except StatementFailed as failure:
            key = f" {failure.constraint}" if failure.code in ("23505", "23514", "1062") else ""
            self._say(f"! {failure.code}{self.names.plain(key)}")
            raise
        except ConnectionLost:
            self._say("! lost")
            raise

    def _say(self, what: str) -> None:
        if not self.is_quiet:
            self.said.append(what)
