"""apsw's cursor, under a guard. With ``apsw_driver`` the only file that imports apsw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import apsw

from nodoubt.nodes.sqlite_guard import WATCHED, several

if TYPE_CHECKING:
    from nodoubt.nodes.apsw_driver import GuardedConnection


class GuardedCursor(apsw.Cursor):
    """apsw's cursor, under the guard of the branch that made it; apsw runs statements while rows are fetched."""

    def __init__(self, connection: GuardedConnection) -> None:
        super().__init__(connection)
        self._session = connection.session
        self._text = ""

    def execute(self, statements: str, bindings: Any = None, **options: Any) -> Any:
        with self._session.call(statements):
            super().execute(statements, bindings, **options)
        return self._begun(statements, several(statements))

    def executemany(self, statements: str, sequenceofbindings: Any, **options: Any) -> Any:
        with self._session.call(statements):
            super().executemany(statements, sequenceofbindings, **options)
        return self._begun(statements, True)

    def __next__(self) -> Any:
        with self._session.call(self._text):
            try:
                return super().__next__()
            except StopIteration:
                self._session.guard.unfinished.pop(id(self), None)
        raise StopIteration

    def fetchone(self) -> Any:
        return next(self, None)

    def fetchall(self) -> list[Any]:
        with self._session.call(self._text):
            return list(self._rows())

    @property
    def get(self) -> Any:
        """As apsw does: nothing, one value, one row or a list, whichever the rows come to."""
        rows = [row[0] if isinstance(row, tuple) and len(row) == 1 else row for row in self.fetchall()]
        return None if not rows else rows[0] if len(rows) == 1 else rows

    @property
    def connection(self) -> Any:  # type: ignore[override]
        """The guarded connection; apsw's own would outlive the block."""
        return self._session.connection

    def get_connection(self) -> Any:
        """See ``connection``."""
        return self._session.connection

    getconnection = get_connection

    def set_exec_trace(self, callable: Any) -> None:  # noqa: A002
        """Refused: a cursor's own trace would hide its statements from the guard."""
        raise self._session.guard.refuse("set_exec_trace()", WATCHED)

    setexectrace = set_exec_trace
    exec_trace = exectrace = property(lambda self: None, set_exec_trace)

    def is_left(self) -> bool:
        """Whether statements, or rows of values, were never run."""
        try:
            apsw.Cursor.close(self, False)
        except apsw.Error as error:
            return isinstance(error, apsw.IncompleteExecutionError)
        return False

    def _begun(self, text: str, watched: bool) -> GuardedCursor:
        self._text = text
        if watched and self._is_active():
            self._session.guard.unfinished[id(self)] = self
        return self

    def _is_active(self) -> bool:
        try:
            _ = self.has_vdbe
        except apsw.ExecutionCompleteError:
            return False
        return True

    def _rows(self) -> Iterator[Any]:
        step = super().__next__
        while True:
            try:
                row = step()
            except StopIteration:
                self._session.guard.unfinished.pop(id(self), None)
                return
            yield row
