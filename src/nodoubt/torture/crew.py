"""The workers of a torture, and their record."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from nodoubt.demo.crew import POINT_TIMEOUT_S, Crew, Member
from nodoubt.torture.record import Record
from nodoubt.torture.worker import STOP_AT


class TortureCrew(Crew):
    """Keeps all ops."""

    def __init__(self, orders: Callable[[int], str], dice: random.Random) -> None:
        super().__init__("nodoubt.torture.worker", orders, dice)
        self.record = Record()
        #: Branches that somebody else than their owner finished.
        self.settled: set[tuple[str, int]] = set()
        #: Worker -> set when it stands still at the point that it was told.
        self._stopping: dict[int, asyncio.Event] = {}

    def heard(self, member: Member, report: Mapping[str, Any]) -> None:
        match report:
            case {"type": _}:
                self.record.note(report)
            case {"settled": [str(gid), int(branch)]}:
                self.settled.add((gid, branch))
            case {"broken": str(what)}:
                self.record.broken.append(what)
            case {"stopping": _}:
                if member.number in self._stopping:
                    self._stopping[member.number].set()
                else:  # too late: nobody stops it, so nobody would wake it
                    member.process.send_signal(signal.SIGCONT)

    def lost(self, member: Member) -> None:
        self.record.give_up(member.number, time.monotonic_ns())

    async def pause(self, seconds: float, point: str | None) -> tuple[int, str]:
        """Stop a worker that is at work (SIGSTOP) for so long, from outside or by itself at a point; its number, and where."""
        victim = await self.victim()
        where = ""
        try:
            if point is not None and await self._stops_at(victim, point):
                where = point
            victim.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                victim.process.send_signal(signal.SIGCONT)
            victim.doomed = False
        return victim.number, where

    async def _stops_at(self, victim: Member, point: str) -> bool:
        stopping = self._stopping[victim.number] = asyncio.Event()
        victim.tell(json.dumps({"die": STOP_AT + point}))
        try:
            await asyncio.wait_for(stopping.wait(), POINT_TIMEOUT_S)
        except TimeoutError:
            victim.tell(json.dumps({"die": None}))
            return False
        finally:
            del self._stopping[victim.number]
        return True
