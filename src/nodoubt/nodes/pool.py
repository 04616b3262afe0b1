"""A bounded pool of sessions, the same for every driver and both worlds.

Only sessions in a known, clean state come back; everything else is discarded by whoever doubts it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from nodoubt.errors import NodeUnavailable
from nodoubt.nodes.world import World


class Pooled(Protocol):
    """What the pool must know of a session."""

    def abandon(self) -> None:
        """Close at once, without waiting for the server."""

    async def close(self) -> None:
        """Close politely."""


S = TypeVar("S", bound=Pooled)


class Pool(Generic[S]):
    """At most ``size`` sessions; the one used last is handed out first, so that the others may grow old and be closed."""

    def __init__(
        self, node: str, world: World, connect: Callable[[], Awaitable[S]], *, size: int, acquire_timeout_s: float
    ) -> None:
        self._node = node
        self._connect = connect
        self._size = size
        self._acquire_timeout_s = acquire_timeout_s
        self._turns = world.turns(size)
        self._idle: list[S] = []
        self._closed = False

    async def take(self) -> tuple[S, bool]:
        """A session, and whether it is new. Raises NodeUnavailable when the pool stays full or the node cannot be reached."""
        if self._closed:
            raise NodeUnavailable(f"node {self._node!r} is closed", retryable=False)
        if not await self._turns.take(self._acquire_timeout_s):
            raise NodeUnavailable(
                f"the pool of node {self._node!r} is full: all {self._size} connections stayed in use "
                f"for {self._acquire_timeout_s:g} s",
                hint="raise the node's pool_size, or look for blocks that stay open too long",
            )
        if (session := self._pop()) is not None:
            return session, False
        try:
            return await self._connect(), True
        except BaseException:
            self._turns.give_back()
            raise

    def at_hand(self) -> tuple[S, bool] | None:
        """An idle session, when a turn is free at once: the usual case, without a wait."""
        if self._idle and not self._closed and self._turns.take_now():
            try:
                return self._idle.pop(), False
            except IndexError:
                self._turns.give_back()
        return None

    def give_back(self, session: S) -> None:
        """Return a session that is idle and in no transaction."""
        if self._closed:
            session.abandon()
        else:
            self._idle.append(session)
        self._turns.give_back()

    def discard(self, session: S) -> None:
        """Close a session whose state is not known to be clean."""
        session.abandon()
        self._turns.give_back()

    def forget_idle(self) -> None:
        """Close all idle sessions: one of them was found dead, as after a restart of the server."""
        while (session := self._pop()) is not None:
            session.abandon()

    async def close(self) -> None:
        """Close idle sessions now and busy ones when they come back."""
        self._closed = True
        while (session := self._pop()) is not None:
            await session.close()

    def _pop(self) -> S | None:
        """Several threads may empty the pool at once."""
        try:
            return self._idle.pop()
        except IndexError:
            return None
