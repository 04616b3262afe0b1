"""Snapshots of a database in memory: copies of its committed rows, which know what was changed since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nodoubt.nodes.memory_locks import Place


class History:
    """How many transactions were committed, and which of them changed a row last."""

    def __init__(self) -> None:
        self.commits = 0
        #: How often something was committed or prepared.
        self.moves = 0
        self._changed: dict[Place, int] = {}

    def committed(self, places: Iterable[Place]) -> None:
        """One more transaction changed these rows."""
        self.commits += 1
        self.moves += 1
        self._changed.update(dict.fromkeys(places, self.commits))

    def last_change(self, place: Place) -> int:
        """The number of the commit that changed a row last."""
        return self._changed.get(place, 0)


class Snapshot:
    """The rows that are committed at this moment."""

    def __init__(self, tables: Mapping[str, dict[str, Any]], history: History) -> None:
        self.tables = {table: dict(rows) for table, rows in tables.items()}
        self._history = history
        self._commits, self._moves = history.commits, history.moves

    @property
    def is_last(self) -> bool:
        """Whether nothing was committed or prepared since."""
        return self._history.moves == self._moves

    def shows(self, place: Place) -> bool:
        """Whether a row is still as it is here."""
        return self._history.last_change(place) <= self._commits
