"""The workers of a torture, and their record."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from nodoubt.demo.crew import Crew, Member
from nodoubt.torture.record import Record


class TortureCrew(Crew):
    """Keeps all ops."""

    def __init__(self, orders: Callable[[int], str], dice: random.Random) -> None:
        super().__init__("nodoubt.torture.worker", orders, dice)
        self.record = Record()
        #: Branches that somebody else than their owner finished.
        self.settled: set[tuple[str, int]] = set()

    def heard(self, member: Member, report: Mapping[str, Any]) -> None:
        match report:
            case {"type": _}:
                self.record.note(report)
            case {"settled": [str(gid), int(branch)]}:
                self.settled.add((gid, branch))
            case {"broken": str(what)}:
                self.record.broken.append(what)

    def lost(self, member: Member) -> None:
        self.record.give_up(member.number, time.monotonic_ns())

    async def pause(self, seconds: float) -> int:
        """Stop a worker that is at work (SIGSTOP) for so long; its number."""
        victim = await self.victim()
        try:
            victim.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                victim.process.send_signal(signal.SIGCONT)
            victim.doomed = False
        return victim.number
