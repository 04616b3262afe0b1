"""Locks of a simulated database: of one transaction alone or shared in a mode, handed on in the order of asking.

Modes that differ exclude each other. Nobody overtakes who waits, but who has a share already.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

#: (table, key)
Place = tuple[str, Any]
#: The mode of a lock that nobody shares.
EXCLUSIVE = ""


class Deadlock(Exception):
    """Waiting would never end."""


class Txn:
    """An open transaction."""

    __slots__ = ("level", "locks", "over", "read_only", "view", "waits_for", "writes")

    def __init__(self, *, read_only: bool = False, level: str = "") -> None:
        self.writes: dict[Place, Any] = {}
        self.locks: list[Place] = []
        self.waits_for: Place | None = None
        self.read_only = read_only
        self.level = level
        self.over = False
        #: Of one with a snapshot: the rows that others replaced since, as they were.
        self.view: dict[Place, Any] | None = None


@dataclass(slots=True, eq=False)
class LockWait:
    """Somebody waits for a lock; ``wake`` is called with whether it got it."""

    txn: Txn
    place: Place
    mode: str
    timeout_s: float | None
    wake: Any = None


class Shared:
    """Those who hold a lock together."""

    __slots__ = ("mode", "txns")

    def __init__(self, mode: str, txn: Txn) -> None:
        self.mode = mode
        self.txns = {txn: None}


class Locks:
    """Who holds what, and who waits for it."""

    def __init__(self) -> None:
        self._holders: dict[Place, Txn | Shared] = {}
        self._queues: dict[Place, list[LockWait]] = {}

    def lock(
        self, txn: Txn, place: Place, timeout_s: float | None, mode: str = EXCLUSIVE
    ) -> Generator[LockWait, bool, bool]:
        """Take a lock, waiting for whoever holds it; False after ``timeout_s``. Raises Deadlock."""
        if (not self._queues.get(place) or self._has_share(txn, place)) and self._fits(txn, place, mode):
            txn.locks.append(place)
            return True
        if self._would_wait_for_itself(txn, place):
            raise Deadlock
        wait = LockWait(txn, place, mode, timeout_s)
        self._queues.setdefault(place, []).append(wait)
        txn.waits_for = place
        try:
            got = yield wait
        finally:
            txn.waits_for = None
            queue = self._queues.get(place, [])
            if wait in queue:
                queue.remove(wait)
                self._hand_on(place)
        return got

    def is_locked(self, txn: Txn | None, table: str, key: Any) -> bool:
        """Whether somebody else holds a row."""
        return self._holders.get((table, key), txn) is not txn

    def release(self, txn: Txn) -> None:
        """Let go of all that a transaction holds."""
        locks, txn.locks = txn.locks, []
        for place in locks:
            holder = self._holders.get(place)
            if holder is txn:
                del self._holders[place]
            elif isinstance(holder, Shared) and txn in holder.txns:
                del holder.txns[txn]
                if not holder.txns:
                    del self._holders[place]
            if place in self._queues:
                self._hand_on(place)

    def move(self, txn: Txn, other: Txn, place: Place) -> None:
        """Hand a share in a lock over, if there is one."""
        holder = self._holders.get(place)
        if isinstance(holder, Shared) and txn in holder.txns:
            del holder.txns[txn]
            holder.txns[other] = None
            txn.locks.remove(place)
            other.locks.append(place)

    def kept(self, txn: Txn, table: str) -> dict[Place, str]:
        """The locks of one kind that a transaction holds, with their modes."""
        places = [place for place in txn.locks if place[0] == table]
        return {
            place: holder.mode if isinstance(holder := self._holders[place], Shared) else EXCLUSIVE for place in places
        }

    def _fits(self, txn: Txn, place: Place, mode: str) -> bool:
        """Give a lock to a transaction if nobody holds one that excludes it."""
        holder = self._holders.get(place)
        if holder is None:
            self._holders[place] = Shared(mode, txn) if mode else txn
        elif isinstance(holder, Shared):
            if mode == holder.mode:
                holder.txns[txn] = None
            elif mode == EXCLUSIVE and [*holder.txns] == [txn]:
                self._holders[place] = txn
            else:
                return False
        else:
            return holder is txn
        return True

    def _has_share(self, txn: Txn, place: Place) -> bool:
        holder = self._holders.get(place)
        return holder is txn or (isinstance(holder, Shared) and txn in holder.txns)

    def _would_wait_for_itself(self, txn: Txn, place: Place) -> bool:
        seen: set[Place] = set()
        waited = [other.waits_for for other in self._keepers(place) if other is not txn]
        while waited:
            there = waited.pop()
            if there is not None and there not in seen:
                seen.add(there)
                keepers = self._keepers(there)
                if txn in keepers:
                    return True
                waited += [other.waits_for for other in keepers]
        return False

    def _keepers(self, place: Place) -> list[Txn]:
        holder = self._holders.get(place)
        return [*holder.txns] if isinstance(holder, Shared) else [holder] if holder is not None else []

    def _hand_on(self, place: Place) -> None:
        queue = self._queues[place]
        while queue and self._fits(queue[0].txn, place, queue[0].mode):
            wait = queue.pop(0)
            wait.txn.locks.append(place)
            # Not when it wakes: until then it would seem to wait for itself.
            wait.txn.waits_for = None
            wait.wake(True)
