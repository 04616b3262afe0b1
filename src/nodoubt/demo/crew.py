"""The crew: starts worker processes, listens to them, kills them, waits for their real end and replaces them.

``Crew`` knows nothing of what its workers do; ``BankCrew`` keeps what those of the bank report.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from nodoubt.demo.killer import Kill
from nodoubt.errors import NodoubtError

#: How long a worker that shall kill itself at a step may take to get there before it is killed from outside.
POINT_TIMEOUT_S = 3.0
#: How long workers may take to start, on a loaded machine.
START_TIMEOUT_S = 60.0
#: How long a worker may take to end its last transfer and go.
STOP_TIMEOUT_S = 60.0


class CrewFailed(NodoubtError):
    """The workers cannot do their work."""


class Member:
    """One worker process, as seen from outside."""

    def __init__(
        self, number: int, process: asyncio.subprocess.Process, listen: Callable[[Member], Awaitable[None]]
    ) -> None:
        #: Counted from 1; a replacement has a number of its own.
        self.number = number
        self.process = process
        self.ready = False
        self.doomed = False
        self.failed = ""
        #: Where it said it would kill itself.
        self.died_at: str | None = None
        if process.stdin is None or process.stdout is None:
            raise CrewFailed("a worker was started without pipes")
        self.orders = process.stdin
        self.reports = process.stdout
        self.listening: asyncio.Future[None] = asyncio.ensure_future(listen(self))

    def tell(self, line: str) -> None:
        """Send a line; a worker that is gone does not get it."""
        if not self.orders.is_closing():
            self.orders.write(line.encode() + b"\n")


class Crew:
    """All workers of a run.

    Args:
        program: the module that a worker runs.
        orders: the first line that a worker reads, from its number.
        dice: draws the victims.
    """

    def __init__(self, program: str, orders: Callable[[int], str], dice: random.Random) -> None:
        #: Workers that ended by SIGKILL, and how many of them at which step.
        self.kills = 0
        self.kills_at: Counter[str] = Counter()
        self._program = program
        self._orders = orders
        self._dice = dice
        self._members: list[Member] = []
        self._changed = asyncio.Event()
        self._started = 0
        #: Nobody is replaced any more: an interrupt may have come between a kill and its replacement.
        self._closing = False

    def heard(self, member: Member, report: Mapping[str, Any]) -> None:
        """Keep what a worker reported of its work."""

    def lost(self, member: Member) -> None:
        """Keep that a worker was killed."""

    async def start(self, workers: int) -> None:
        """Start them and wait until all are at work."""
        for _ in range(workers):
            await self._hire()
        await self._until(lambda: all(member.ready for member in self._members), START_TIMEOUT_S)

    async def _hire(self) -> None:
        if self._closing:
            return
        # A session of its own: a Ctrl-C of the terminal is for the supervisor, which lets workers end well.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._program,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._started += 1
        member = Member(self._started, process, self._listen)
        self._members.append(member)
        member.tell(self._orders(self._started))

    async def _listen(self, member: Member) -> None:
        """Read a worker's reports to the end of its pipe, then wait for the real end of its process."""
        while line := await member.reports.readline():
            if line.endswith(b"\n"):  # a line cut off by a kill says nothing
                self._note(member, json.loads(line))
        status = await member.process.wait()
        if not member.doomed and status != 0 and not member.failed:
            member.failed = f"a worker ended by itself with status {status}"
        if member.doomed and status == -signal.SIGKILL:
            self.kills += 1
            self.kills_at[member.died_at or ""] += 1
            self.lost(member)
        self._changed.set()

    def _note(self, member: Member, report: Mapping[str, Any]) -> None:
        match report:
            case {"dying": str(point)}:
                member.died_at = point
            case {"ready": _}:
                member.ready = True
                self._changed.set()
            case {"failed": str(why)}:
                member.failed = why
                self._changed.set()
            case _:
                self.heard(member, report)

    async def _until(self, fact: Callable[[], bool], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not fact():
                    self.check()
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise CrewFailed(f"the workers were not at work within {timeout_s:g} s") from None

    def check(self) -> None:
        """Raise CrewFailed if a worker ended that nobody killed."""
        for member in self._members:
            if member.failed and not member.doomed:
                raise CrewFailed(f"a worker cannot go on: {member.failed}")

    def _idle(self) -> list[Member]:
        return [m for m in self._members if m.ready and not m.doomed and m.process.returncode is None]

    async def carry_out(self, plan: Sequence[Kill], started: float) -> None:
        """Kill as planned; returns when every killed worker is replaced by one at work."""
        loop = asyncio.get_running_loop()
        kills: list[asyncio.Task[None]] = []
        for kill in plan:
            await asyncio.sleep(max(0.0, started + kill.at_s - loop.time()))
            kills.append(asyncio.create_task(self.kill(await self.victim(), kill.point)))
        await asyncio.gather(*kills)
        await self._until(lambda: all(member.ready for member in self._members), START_TIMEOUT_S)

    async def victim(self) -> Member:
        """A worker at work, which is doomed from now on."""
        await self._until(lambda: bool(self._idle()), START_TIMEOUT_S)
        victim = self._dice.choice(self._idle())
        victim.doomed = True
        return victim

    async def kill(self, victim: Member, point: str | None) -> None:
        """Kill a doomed worker, from outside or by itself at a step; returns when it is gone and replaced."""
        if point is None:
            victim.process.kill()
        else:
            victim.tell(json.dumps({"die": point}))
            try:
                await asyncio.wait_for(victim.process.wait(), POINT_TIMEOUT_S)
            except TimeoutError:
                # It may have died at this very moment.
                with contextlib.suppress(ProcessLookupError):
                    victim.process.kill()
        await victim.listening
        self._members.remove(victim)
        await self._hire()

    async def stop(self) -> None:
        """Let every worker end its transfer and go; kill those that don't, which the audit will show."""
        self._closing = True
        for member in self._members:
            member.orders.close()
        tasks = [member.listening for member in self._members]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_TIMEOUT_S)
            if late:
                await self.end()
                raise CrewFailed(f"{len(late)} workers did not end within {STOP_TIMEOUT_S:g} s")
        self.check()

    async def end(self) -> None:
        """End every process, whatever happened."""
        self._closing = True
        for member in self._members:
            if member.process.returncode is None:
                member.process.kill()
        await asyncio.gather(*(member.listening for member in self._members), return_exceptions=True)


class BankCrew(Crew):
    """The workers of the bank, and what they reported."""

    def __init__(self, orders: Callable[[int], str], dice: random.Random) -> None:
        super().__init__("nodoubt.demo.worker", orders, dice)
        self.told_committed: set[str] = set()
        self.settled: set[tuple[str, int]] = set()
        #: Transactions whose worker was killed before it reported their end.
        self.orphans: set[str] = set()
        self.aborted = self.unknown = 0
        #: The transaction that a worker began last and has not reported the end of.
        self._at_work: dict[int, str] = {}

    def heard(self, member: Member, report: Mapping[str, Any]) -> None:
        match report:
            case {"began": str(gid)}:
                self._at_work[member.number] = gid
            case {"done": str(gid)}:
                self.told_committed.add(gid)
                self._at_work.pop(member.number, None)
            case {"aborted": _}:
                self.aborted += 1
                self._at_work.pop(member.number, None)
            case {"unknown": _}:
                self.unknown += 1
                self._at_work.pop(member.number, None)
            case {"settled": [str(gid), int(branch)]}:
                self.settled.add((gid, branch))

    def lost(self, member: Member) -> None:
        if (gid := self._at_work.pop(member.number, None)) is not None:
            self.orphans.add(gid)
