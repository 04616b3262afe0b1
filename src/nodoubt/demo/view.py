"""The live view on standard error: one line that is redrawn on a terminal, a line each second elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TextIO


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What is shown. ``in_doubt`` and ``money`` are None where they could not be read at this moment."""

    seconds: float
    transfers: int
    rate: float
    kills: int
    kills_planned: int
    in_doubt: int | None
    money: int | None
    money_before: int


class View:
    """Shows one moment after the other."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._redraws = stream.isatty()
        self._drawn = False
        #: How often a moment is worth showing.
        self.tick_s = 0.25 if self._redraws else 1.0

    def say(self, line: str) -> None:
        """A line that stays."""
        self.clear()
        print(line, file=self._stream, flush=True)

    def show(self, moment: Moment) -> None:
        """Show a moment in place of the last one."""
        self.show_line(describe(moment))

    def show_line(self, line: str) -> None:
        """Show a line in place of the last one."""
        if self._redraws:
            print(f"\r\x1b[K{line}", end="", file=self._stream, flush=True)
            self._drawn = True
        else:
            print(line, file=self._stream, flush=True)

    def clear(self) -> None:
        """Take the redrawn line away."""
        if self._drawn:
            print("\r\x1b[K", end="", file=self._stream, flush=True)
            self._drawn = False


def describe(moment: Moment) -> str:
    """A moment in one line of less than 100 characters."""
    parts = [
        f"{moment.seconds:5.1f} s",
        f"{thousands(moment.transfers)} transfers",
        f"{moment.rate:,.0f}/s",
        f"kills {moment.kills}/{moment.kills_planned}",
    ]
    if moment.in_doubt is not None:
        parts.append(f"in doubt {moment.in_doubt}")
    if moment.money is None:
        parts.append("money: not read just now")
    elif moment.money == moment.money_before:
        parts.append(f"money {thousands(moment.money)}, all there")
    else:
        parts.append(f"money {thousands(moment.money)}, {difference(moment.money_before, moment.money)}")
    return "   ".join(parts)


def thousands(number: int) -> str:
    """A number that is easy to read."""
    return f"{number:,}"


def difference(before: int, after: int) -> str:
    """What became of money."""
    return f"{thousands(before - after)} MISSING" if after < before else f"{thousands(after - before)} TOO MUCH"
