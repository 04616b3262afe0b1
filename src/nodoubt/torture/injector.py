"""Carries the plan out, and keeps what really happened.

A fault counts when it happened: a forced write that nobody asked for in time, or a request that never came, does not. A
server is struck by one fault at a time, and is well again before the next.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from nodoubt.testing.disks import failing_sync, wait_for_failed_sync
from nodoubt.testing.servers import ServerFailed
from nodoubt.torture.crew import TortureCrew
from nodoubt.torture.grounds import Grounds
from nodoubt.torture.options import Kind
from nodoubt.torture.plan import Strike

#: How often the proxies are asked what struck, and let go what they delay.
LOOK_S = 0.1
DELAY_S_MIN, DELAY_S_MAX = 0.5, 3.0
RESTARTS_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault that happened. ``at_s`` counts from the beginning of the run."""

    at_s: float
    kind: Kind
    target: str
    detail: str = ""
    lasted_s: float = 0.0


class Injector:
    """The faults of one run."""

    def __init__(self, grounds: Grounds, crew: TortureCrew, seed: int) -> None:
        self.faults: list[Fault] = []
        self._grounds = grounds
        self._crew = crew
        self._dice = random.Random(f"{seed}/delays")
        self._busy = {name: asyncio.Lock() for name in grounds.servers}
        self._seen: Counter[str] = Counter()
        self._started = 0.0

    @property
    def counts(self) -> Counter[Kind]:
        """How often each kind happened."""
        return Counter(fault.kind for fault in self.faults)

    def last_death_s(self, server: str) -> float:
        """When the server was up again after the last fault that it may have died of, in seconds of the loop; 0 if none."""
        fatal = (Kind.SERVER_KILL, Kind.DISK_FULL, Kind.SYNC_ERROR)
        ends = (fault.at_s + fault.lasted_s for fault in self.faults if fault.target == server and fault.kind in fatal)
        return max((self._started + end for end in ends), default=0.0)

    async def carry_out(self, plan: Sequence[Strike], started: float) -> None:
        """Strike as planned; returns, cancelled or not, when each strike that began is over and its victim well again."""
        self._started = started
        loop = asyncio.get_running_loop()
        strikes: list[asyncio.Task[None]] = []
        try:
            for strike in plan:
                await asyncio.sleep(max(0.0, started + strike.at_s - loop.time()))
                strikes.append(asyncio.create_task(self._strike(strike)))
            await asyncio.gather(*strikes)
        finally:
            # A server is not left between its end and its restart, nor a worker stopped.
            await asyncio.gather(*strikes, return_exceptions=True)

    async def follow_network(self, started: float) -> None:
        """Keep what the proxies did, and end what they delay, until cancelled."""
        self._started = started
        loop = asyncio.get_running_loop()
        release_at = dict.fromkeys(self._grounds.proxies, 0.0)
        while True:
            for name, proxy in self._grounds.proxies.items():
                self.look_at_network()
                if loop.time() >= release_at[name]:
                    proxy.release()
                    release_at[name] = loop.time() + self._dice.uniform(DELAY_S_MIN, DELAY_S_MAX)
            await asyncio.sleep(LOOK_S)

    def look_at_network(self) -> None:
        """Keep what has struck since the last look."""
        for name, proxy in self._grounds.proxies.items():
            struck = proxy.struck
            for fault in struck[self._seen[name] :]:
                self._happened(
                    Kind.NETWORK, name, f"{fault.statement}: {fault.arrives}, then {fault.then.name.lower()}"
                )
            self._seen[name] = len(struck)

    async def _strike(self, strike: Strike) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        match strike.kind:
            case Kind.WORKER_KILL:
                victim = await self._crew.victim()
                await self._crew.kill(victim, strike.point)
                died = f"killed at {victim.died_at!r}" if victim.died_at else "killed"
                self._happened(strike.kind, f"worker {victim.number}", died)
            case Kind.WORKER_PAUSE:
                number, where = await self._crew.pause(strike.lasts_s, strike.point)
                stopped = f"stopped at {where!r}" if where else "stopped"
                self._happened(strike.kind, f"worker {number}", stopped, loop.time() - began)
            case _:
                async with self._busy[strike.server]:
                    await self.revive(strike.server)
                    began = loop.time()
                    try:
                        detail = await self._strike_server(strike)
                    except ServerFailed:  # it was still dying of the last fault
                        detail = ""
                    await self.revive(strike.server)
                    if detail:
                        self._happened(strike.kind, strike.server, detail, loop.time() - began)

    async def _strike_server(self, strike: Strike) -> str:
        """What happened; "" if nothing did."""
        server = self._grounds.servers[strike.server]
        match strike.kind:
            case Kind.SERVER_KILL:
                await asyncio.to_thread(server.kill)
                await asyncio.sleep(strike.lasts_s)
                return "killed"
            case Kind.SERVER_PAUSE:
                await asyncio.to_thread(server.pause)
                await asyncio.sleep(strike.lasts_s)
                return "stopped"
            case Kind.DISK_FULL:
                disk = self._grounds.disks[strike.server]
                disk.fill()
                try:
                    await asyncio.sleep(strike.lasts_s)
                finally:
                    disk.clear()
                return "its disk was full"
            case _:
                with failing_sync(server) as log:
                    failed = await asyncio.to_thread(wait_for_failed_sync, log, strike.lasts_s)
                return f"{failed} forced writes failed" if failed else ""

    async def tend_servers(self) -> None:
        """Restart servers that died of a fault after it was over, until cancelled. Raises ServerFailed."""
        while True:
            for name, busy in self._busy.items():
                if not self._grounds.servers[name].running:
                    async with busy:
                        await self.revive(name)
            await asyncio.sleep(LOOK_S)

    async def revive(self, name: str) -> None:
        """Bring a server back whatever was done to it. Raises ServerFailed."""
        server = self._grounds.servers[name]
        await asyncio.to_thread(server.resume)
        for attempt in range(1, RESTARTS_MAX + 1):
            if server.running:
                return
            try:
                await asyncio.to_thread(server.restart)
            except ServerFailed:
                if attempt == RESTARTS_MAX:
                    raise

    def _happened(self, kind: Kind, target: str, detail: str, lasted_s: float = 0.0) -> None:
        at_s = asyncio.get_running_loop().time() - self._started - lasted_s
        self.faults.append(Fault(at_s=at_s, kind=kind, target=target, detail=detail, lasted_s=lasted_s))
