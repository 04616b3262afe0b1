"""Who may write which row of a database in memory, who reads it, and which tables nobody writes at the moment."""

from __future__ import annotations

from collections.abc import Callable

#: (table, key)
Place = tuple[str, str]
#: A session's number, or the name of prepared work.
Holder = int | str


class MustWait(Exception):
    """Somebody else holds the row, or its table."""


class Locks:
    """Locks of rows, each kept until its holder's work ends, and of whole tables. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float], end: Callable[[int], None]) -> None:
        self._clock = clock
        self._end = end
        self._writers: dict[Place, Holder] = {}
        self._readers: dict[Place, set[Holder]] = {}
        #: table -> session -> how long it may idle, and when it was heard last
        self._frozen: dict[str, dict[int, tuple[float, float]]] = {}

    def write(self, holder: Holder, place: Place) -> None:
        """Keep everybody else from a row. Raises MustWait."""
        if self._readers.get(place, set()) - {holder} or self._is_frozen(place[0], holder):
            raise MustWait
        if self._writers.setdefault(place, holder) != holder:
            raise MustWait

    def read(self, holder: Holder, place: Place) -> None:
        """Keep everybody else from writing a row. Raises MustWait."""
        if self._writers.get(place, holder) != holder:
            raise MustWait
        self._readers.setdefault(place, set()).add(holder)

    def freeze(self, session: int, table: str, idle_s_max: float) -> None:
        """Keep everybody else from writing a table, until the session ends or idles for too long. Raises MustWait."""
        if any(place[0] == table and holder != session for place, holder in self._writers.items()):
            raise MustWait
        self._frozen.setdefault(table, {})[session] = idle_s_max, self._clock()

    def heard(self, session: int) -> None:
        """A session does not idle."""
        for sessions in self._frozen.values():
            if session in sessions:
                sessions[session] = sessions[session][0], self._clock()

    def hand_on(self, holder: Holder, heir: Holder) -> None:
        """What one held is another one's now."""
        self._writers = {place: heir if one == holder else one for place, one in self._writers.items()}
        for readers in self._readers.values():
            if holder in readers:
                readers.remove(holder)
                readers.add(heir)

    def free(self, holder: Holder) -> None:
        """Let go of everything."""
        self._writers = {place: one for place, one in self._writers.items() if one != holder}
        for readers in self._readers.values():
            readers.discard(holder)
        if isinstance(holder, int):
            for sessions in self._frozen.values():
                sessions.pop(holder, None)

    def _is_frozen(self, table: str, holder: Holder) -> bool:
        sessions = self._frozen.get(table, {})
        for session, (idle_s_max, heard_s) in list(sessions.items()):
            if self._clock() - heard_s > idle_s_max:
                self._end(session)
        return bool(sessions.keys() - {holder})
