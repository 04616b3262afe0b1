"""The crew: starts worker processes, listens to them, kills them, waits for their real end and replaces them."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from nodoubt.demo.killer import Kill
from nodoubt.errors import NodoubtError

#: How long a worker that shall kill itself at a step may take to get there before it is killed from outside.
POINT_TIMEOUT_S = 3.0
#: How long workers may take to start, on a loaded machine.
START_TIMEOUT_S = 60.0
#: How long a worker may take to end its last transfer and go.
STOP_TIMEOUT_S = 20.0


class CrewFailed(NodoubtError):
    """The workers cannot do their work."""


class Member:
    """One worker process, as seen from outside."""

    def __init__(self, process: asyncio.subprocess.Process, listen: Callable[[Member], Awaitable[None]]) -> None:
        self.process = process
        self.ready = False
        self.doomed = False
        self.failed = ""
        #: Where it said it would kill itself.
        self.died_at: str | None = None
        #: The transaction that it began last and has not reported the end of.
        self.at_work: str | None = None
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
    """All workers of a run, and what they reported."""

    def __init__(self, orders: Callable[[int], str], dice: random.Random) -> None:
        self.told_committed: set[str] = set()
        self.settled: set[tuple[str, int]] = set()
        #: Transactions whose worker was killed before it reported their end.
        self.orphans: set[str] = set()
        self.aborted = self.unknown = 0
        #: Workers that ended by SIGKILL, and how many of them at which step.
        self.kills = 0
        self.kills_at: Counter[str] = Counter()
        self._orders = orders
        self._dice = dice
        self._members: list[Member] = []
        self._changed = asyncio.Event()
        self._started = 0
        #: Nobody is replaced any more: an interrupt may have come between a kill and its replacement.
        self._closing = False

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
            "nodoubt.demo.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        member = Member(process, self._listen)
        self._members.append(member)
        self._started += 1
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
            if member.at_work is not None:
                self.orphans.add(member.at_work)
        self._changed.set()

    def _note(self, member: Member, report: dict[str, object]) -> None:
        match report:
            case {"began": str(gid)}:
                member.at_work = gid
            case {"done": str(gid)}:
                self.told_committed.add(gid)
                member.at_work = None
            case {"aborted": _}:
                self.aborted += 1
                member.at_work = None
            case {"unknown": _}:
                self.unknown += 1
                member.at_work = None
            case {"settled": [str(gid), int(branch)]}:
                self.settled.add((gid, branch))
            case {"dying": str(point)}:
                member.died_at = point
            case {"ready": _}:
                member.ready = True
                self._changed.set()
            case {"failed": str(why)}:
                member.failed = why
                self._changed.set()

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
            await self._until(lambda: bool(self._idle()), START_TIMEOUT_S)
            victim = self._dice.choice(self._idle())
            victim.doomed = True
            kills.append(asyncio.create_task(self._kill(victim, kill.point)))
        await asyncio.gather(*kills)
        await self._until(lambda: all(member.ready for member in self._members), START_TIMEOUT_S)

    async def _kill(self, victim: Member, point: str | None) -> None:
        if point is None:
            victim.process.kill()
        else:
            victim.tell(json.dumps({"die": point}))
            try:
                await asyncio.wait_for(victim.process.wait(), POINT_TIMEOUT_S)
            except TimeoutError:
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
