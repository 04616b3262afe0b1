"""What nodes and engine may ask of the outside: clock, randomness, waiting, and doing several things at once.

The steps of the library are coroutines, written once. In an asynchronous world they suspend; in a world of threads every
``await`` ends without suspending, so that one ``send(None)`` runs a whole step. A simulation hands in a world of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Turns(Protocol):
    """A bounded number of turns, handed out in the order of asking."""

    async def take(self, timeout_s: float) -> bool:
        """Wait for a turn; False if there was none within ``timeout_s``."""

    def take_now(self) -> bool:
        """A turn without waiting, if one is free."""

    def give_back(self) -> None:
        """Let the next one have it; from any thread."""


class Alarm(Protocol):
    """A call that is to happen later."""

    def cancel(self) -> None:
        """Forget it."""


class World(Protocol):
    """The outside, handed in."""

    #: Whether a transaction's deadline interrupts whatever its block waits for; threads can only be cut off.
    interrupts: bool

    def loop(self) -> object:
        """The event loop that runs; None where there is none."""

    def now(self) -> float:
        """Seconds of a monotonic clock."""

    def unix_ms(self) -> int:
        """Milliseconds since 1970, for the names of things only."""

    def random(self, count: int) -> bytes:
        """Unpredictable bytes."""

    def turns(self, count: int) -> Turns:
        """Make a set of turns."""

    def later(self, seconds: float, call: Callable[[], None]) -> Alarm:
        """Call ``call`` after a time; it must not block."""

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""

    async def together(self, steps: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """Run steps at once and return their results in order, when all are through. Steps do not raise."""

    async def aside(self, call: Callable[[], T]) -> T:
        """Make a blocking call without holding up anybody else."""
