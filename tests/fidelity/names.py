"""What a run calls by random names, and what a transcript calls it: all that may differ between two runs is made plain here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal

from nodoubt.nodes.dialect import Row
from nodoubt.protocol.ids import new_gid


class Names:
    """What a run calls by random names, and what the transcript calls it."""

    def __init__(self, unix_ms: int, random: Callable[[int], bytes]) -> None:
        self._gids = [new_gid(unix_ms + number, random(10)) for number in range(10)]
        #: Random text -> its name.
        self.known = {gid: f"g{number}" for number, gid in enumerate(self._gids)}
        #: Number of a transaction -> the token of the session that began its branch.
        self.begun: dict[str, str] = {}

    def gid(self, number: str) -> str:
        return self._gids[int(number)]

    def is_ours(self, value: object) -> bool:
        """Whether a value names one of this run's transactions."""
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        return any(gid in text for gid in self._gids)

    def plain(self, value: object) -> object:
        """A value without what differs between two runs: ages and random names."""
        if isinstance(value, float | Decimal):
            return "~"
        if isinstance(value, tuple):
            return "".join(value)
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        if isinstance(value, str):
            for random, name in self.known.items():
                value = value.replace(random, name)
        return value

    def rows(self, rows: Sequence[Row]) -> list[tuple[object, ...]]:
        return [tuple(self.plain(value) for value in row) for row in rows]
