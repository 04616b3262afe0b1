"""What a run leaves behind: its trace, what was reached, and what must never have happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable


class Observer:
    """Everybody in the world tells it. Without ``traced`` only counts are kept."""

    def __init__(self, now: Callable[[], float], *, traced: bool) -> None:
        self._now = now
        self.lines: list[str] | None = [] if traced else None
        #: (group, what) -> how often
        self.hits: Counter[tuple[str, str]] = Counter()
        self.violations: list[str] = []

    def say(self, who: str, what: str) -> None:
        """A line of the trace."""
        if self.lines is not None:
            self.lines.append(f"{self._now():12.6f}  {who:<10} {what}")

    def hit(self, group: str, what: str) -> None:
        """Something was reached."""
        self.hits[group, what] += 1

    def violation(self, what: str) -> None:
        """Something happened that must not."""
        self.say("VIOLATION", what)
        self.violations.append(what)
