"""Scripted transactions, run in small worlds in which chosen calls fail, and judged from outside."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nodoubt.engine.config import Config
from nodoubt.engine.engine import Settings
from nodoubt.errors import Aborted, NodoubtError, OutcomeUnknown
from nodoubt.nodes import sqlite_tables
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.protocol import messages as m
from nodoubt.sim import judge
from nodoubt.sim.driver import SimulatedError
from nodoubt.sim.fuse import Fuse, Strike, laid
from nodoubt.sim.loop import ProcessLoop
from nodoubt.sim.plan import Plan
from nodoubt.sim.process import Clock, Process
from nodoubt.sim.run import DOMAIN, SETTLED_S_MAX, STEPS_MAX, Simulation, opened
from nodoubt.sim.seam import swapped
from nodoubt.sim.server import Backend
from nodoubt.sim.workload import ACCOUNTS, LISTS, OVERDRAFT, TEXTS, Attempt, Client, Regret

KINDS = ("postgresql", "mariadb", "sqlite")
#: A program that opens a manager, commits and closes it at once; all of that is counted.
WHOLE_LIFE = "open to close"
#: How a transaction ends that nothing happens to. ``refuse``: its last branch votes no.
ENDS = {"commit": "committed", "raise": "aborted", "refuse": "aborted", WHOLE_LIFE: "committed"}
#: Where the owner of a transaction dies that others settle: the last message of its last moment, for so many participants.
DEATHS: dict[str, Callable[[int], tuple[type[m.Order | m.Fact], int]]] = {
    "some promised": lambda others: (m.Prepared, 1),
    "all promised": lambda others: (m.Prepared, others),
    "decided": lambda others: (m.DecisionDurable, 1),
    "some committed": lambda others: (m.BranchCommitted, 1),
    "all committed": lambda others: (m.Forget, 1),
}
#: The process that dies in scripts that are settled by another, and the one that calls are counted of.
OWNER, COUNTED = "owner", "p0"
#: What the transaction under test writes.
SCRIPTED = "scripted"
POOL = 2
#: How often it is looked whether everything is settled, in virtual seconds.
LOOK_S = 0.5
#: A process that died is started again by then.
REBOOT_S = 0.2
RETENTION_S = 100.0
#: Long enough for what was sent last to arrive.
ARRIVES_S = 1.0


@dataclass(frozen=True, slots=True)
class Script:
    """One transaction: its nodes in the order of enlistment, home first, and how it ends if nothing fails."""

    kinds: tuple[str, ...]
    end: str

    def __str__(self) -> str:
        return f"{self.end} {'+'.join(self.kinds)}"

    @property
    def nodes(self) -> dict[str, str]:
        """name -> kind"""
        return {f"{kind[0]}{number}": kind for number, kind in enumerate(self.kinds)}

    @property
    def dies_at(self) -> tuple[type[m.Order | m.Fact], int] | None:
        """The message, and how often it was seen, at which the owner dies; None if calls of the owner itself are counted."""
        death = DEATHS.get(self.end)
        return death and death(len(self.kinds) - 1)


def scripts(branches: int) -> Iterator[Script]:
    """Every scripted transaction of so many branches: each kind as home, each combination of the others."""
    for home in KINDS:
        for others in itertools.combinations_with_replacement(KINDS, branches - 1):
            for end in (*ENDS, *(DEATHS if branches > 1 else ())):
                is_another = branches > 2 if end == "some promised" else branches < 3 or end != WHOLE_LIFE
                if is_another:
                    yield Script((home, *others), end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a script."""

    violations: tuple[str, ...]
    #: The strikes that were reached.
    struck: tuple[str, ...]
    told: str
    lines: tuple[str, ...]


def play(script: Script, strikes: Sequence[Strike] = (), *, traced: bool = False) -> Result:
    """Run a script in which these calls fail."""
    world = _World(script, strikes, traced=traced)
    with (
        swapped(logging.getLogger("nodoubt"), "disabled", True),
        swapped(sqlite_tables, "changed_tables", lambda changeset: {}),
        laid(world.fuse),
    ):
        try:
            world.play()
            return world.result()
        finally:
            world.bury()


class _World(Simulation):
    """The world of one script: nothing in it fails but what is chosen."""

    def __init__(self, script: Script, strikes: Sequence[Strike], *, traced: bool) -> None:
        self.script = script
        self.fuse = Fuse(self, strikes)
        self._dies_at = script.dies_at
        #: Whether a process died that perhaps was not told the end.
        self._is_orphaned = script.dies_at is not None
        self._caller: asyncio.Task[None] | None = None
        plan = Plan(
            seed=0,
            nodes=script.nodes,
            processes=1,
            clients=0,
            transactions=0,
            horizon_s=0.0,
            latency_s=0.0005,
        )
        super().__init__(plan, traced=traced)
        self._clocks[OWNER] = Clock()

    def _make_clients(self) -> dict[str, list[Client]]:
        return {}

    def _configure(self) -> Config:
        node = NodeSettings(
            url="simulated:",
            pool_size=POOL,
            acquire_timeout_s=2.0,
            connect_timeout_s=2.0,
            settle_connections=POOL,
            lock_timeout_s=0.2,
            session_limit_s=10.0,
        )
        settings = Settings(
            timeout_s=10.0,
            settle_every_s=2.0,
            grace_s=0.0,
            forget_every_s=0.5,
            retention_s=RETENTION_S,
            watch=self._watch,
        )
        return Config(domain=DOMAIN, nodes=dict.fromkeys(self.plan.nodes, node), settings=settings)

    # What happens

    def _watch(self, what: Literal["order", "fact"], gid: str, message: m.Order | m.Fact) -> None:
        self.watcher(what, gid, message)
        if self._dies_at is not None and isinstance(message, self._dies_at[0]):
            left = self._dies_at[1] - 1
            self._dies_at = (self._dies_at[0], left) if left else None
            if not left:
                self.kill(self.processes[OWNER].loop, with_machine=False)

    async def _live(self, process: Process) -> None:
        if self.script.end == WHOLE_LIFE:
            self.fuse.armed = self._caller is None
        await opened(process)
        if process.name == OWNER:
            await self._transact(process)
        elif self._caller is None:
            self.fuse.armed = True
            step = self._settle if self.script.dies_at is not None else self._transact
            self._caller = process.loop.create_task(step(process))
            await asyncio.wait({self._caller})
            if self.script.end == WHOLE_LIFE:
                await self._leave(process)
        process.idle = True

    async def _leave(self, process: Process) -> None:
        """The program ends; it is started again, as others would be."""
        try:
            await process.manager.__aexit__()
        except Exception as error:
            self.observer.violation(f"closing the manager raised {error!r}")
        self.kill(process.loop, with_machine=False)

    async def _settle(self, process: Process) -> None:
        await process.manager.settle(grace_s=0)

    async def _transact(self, process: Process) -> None:
        tx = process.manager.transaction()
        attempt = Attempt(SCRIPTED, tx.gid)
        self.attempts.append(attempt)
        raised: BaseException | None = None
        try:
            async with tx:
                await self._work(tx, attempt, 0)
                if self.script.end == "raise":
                    attempt.whole = False
                    raise Regret
                if self.script.end == "refuse":
                    attempt.whole = False
                    name, kind = list(self.plan.nodes.items())[-1]
                    try:
                        await (await tx.on(name)).execute(TEXTS[kind][2], -OVERDRAFT, ACCOUNTS[0])
                    except SimulatedError:
                        """The block does not care; the branch votes no."""
        except (NodoubtError, SimulatedError, ConnectionError, Regret, asyncio.CancelledError) as error:
            raised = error
        finally:
            attempt.told = tx.outcome.state
        expected = {Aborted: "aborted", OutcomeUnknown: "unknown", type(None): "committed"}.get(type(raised))
        if expected is not None and attempt.told != expected:
            self.observer.violation(f"{raised!r} was raised of a transaction that is {attempt.told}")

    async def _work(self, tx: Any, attempt: Attempt, place: int) -> None:
        amounts = {name: number + 1 for number, name in enumerate(self.plan.nodes)}
        for name, kind in self.plan.nodes.items():
            _, append, move = TEXTS[kind]
            connection = await tx.on(name)
            attempt.moved[name] = amounts[name]
            attempt.ops.append(("append", (name, LISTS[place]), attempt.tag))
            await connection.execute(append, attempt.tag, LISTS[place])
            await connection.execute(move, amounts[name], ACCOUNTS[place])

    # Who is struck

    def kill(self, loop: ProcessLoop, *, with_machine: bool) -> None:
        process: Process = loop.owner
        self._is_orphaned = True
        self.observer.say(process.name, "loses power" if with_machine else "is killed")
        process.idle = True
        process.kill(with_machine=with_machine)
        if with_machine:
            self.machine.lose_power()
            for database in self.files:
                database.lose_power()
        self.schedule.after(REBOOT_S, self.boot, COUNTED)

    def cancel(self) -> None:
        if self._caller is not None:
            self._caller.cancel()

    def time_out(self) -> None:
        process = self.processes[COUNTED]
        for work in list(process.manager.engine.live.values()) if process.is_open else ():
            work.expire()

    # Phases

    def play(self) -> None:
        self.boot(OWNER if self._dies_at is not None else COUNTED)
        settled = self._wait_until_settled()
        self.fuse.armed = False
        if self.script.dies_at is not None and self._dies_at is not None:
            self.observer.violation("the owner never came to where it was to die")
        self._judge_end(settled)
        for attempt in self.attempts:
            self._judge_told(attempt)
        if settled:
            self._go_on()
        judge.safety(self)
        for bug in self.schedule.bugs:
            self.observer.violation(f"a callback raised {bug!r}")

    def _wait_until_settled(self) -> bool:
        # Looks more often than histories do: what is counted ends here.
        while self.schedule.now < SETTLED_S_MAX:
            self.schedule.run(self.schedule.now + LOOK_S, STEPS_MAX)
            if self.is_quiet() and self._caller is not None and not self.processes[COUNTED].loop.dead:
                return True
        return False

    def is_quiet(self) -> bool:
        return COUNTED in self.processes and not self.fuse.smoulders and super().is_quiet()

    def _judge_told(self, attempt: Attempt) -> None:
        told, answered, say = attempt.told, attempt.answered, self.observer.violation
        found = any(attempt.tag in row for db in self.databases.values() for row in db.store.tables["list"].values())
        end = "committed" if found else "aborted"
        # That nothing was decided is known to the process that tried, and to nobody while no tombstone says so.
        if answered not in ("", end) and not (answered == "unknown" and end == "aborted" and self._is_orphaned):
            say(f"it {end}, and who asks is told that it is {answered}")
        if not self.fuse.struck and told != ENDS.get(self.script.end, ""):
            say(f"nothing failed, and the caller was told {told!r}")

    def _settle_again(self) -> None:
        survivor = self.processes[COUNTED]
        self._do(survivor, judge.ask(survivor, self))

    def _go_on(self) -> None:
        """The process that is left works on, is closed, and a new one purges what is too old."""
        survivor = self.processes[COUNTED]
        self._until(lambda: not any(backend.txn for backend in self._half_open()), "a half-open session is never ended")
        self._do(survivor, self._use(survivor))
        self._do(survivor, survivor.manager.__aexit__())
        self._judge_leaks()
        self.schedule.run(self.schedule.now + RETENTION_S, STEPS_MAX)
        self._clocks["visitor"] = Clock()
        self.boot("visitor")
        visitor = self.processes["visitor"]
        self._do(visitor, self._purge(visitor))
        self._judge_leaks()
        for name, database in self.databases.items():
            for table in ("decision", "branch"):
                for row in database.store.tables[table].items():
                    self.observer.violation(f"{name} keeps for ever in its table {table}: {row}")
        for path, inode in self.machine.files.items():
            # The file by which opening a node tries the folder is empty; a power failure may bring it back.
            if inode.content:
                self.observer.violation(f"{path} is kept for ever")

    def _half_open(self) -> list[Backend]:
        """The sessions of machines that lost power, of which no server was told."""
        return [
            backend for server in self.servers for backend in server.backends.values() if backend.line.client.loop.dead
        ]

    def _do(self, process: Process, step: Coroutine[Any, Any, object]) -> None:
        task = process.loop.create_task(step)
        self._until(task.done, "afterwards something hangs")
        if task.done() and (error := task.exception()) is not None:
            self.observer.violation(f"afterwards: {error!r}")

    def _until(self, done: Callable[[], bool], violation: str) -> None:
        """Let time pass until something is so; if it never is, that is a violation."""
        end = self.schedule.now + SETTLED_S_MAX
        while not done():
            if self.schedule.now >= end:
                self.observer.violation(violation)
                return
            self.schedule.run(self.schedule.now + LOOK_S, STEPS_MAX)

    async def _use(self, process: Process) -> None:
        """Transactions hold all sessions of every pool at once."""
        all_hold = asyncio.Barrier(POOL)

        async def one(place: int) -> None:
            async with process.manager.transaction() as tx:
                attempt = Attempt(f"after.{place}", tx.gid)
                self.attempts.append(attempt)
                for name, kind in self.plan.nodes.items():
                    # Of a file there is one writer at a time.
                    if kind != "sqlite":
                        await tx.on(name)
                await all_hold.wait()
                await self._work(tx, attempt, place)
            attempt.told = tx.outcome.state

        await asyncio.gather(*[one(place) for place in range(POOL)])

    async def _purge(self, process: Process) -> None:
        while not process.is_open:
            await process.world.sleep(ARRIVES_S)
        await process.manager.engine.purge()
        await process.manager.__aexit__()

    def _judge_leaks(self) -> None:
        self.schedule.run(self.schedule.now + ARRIVES_S, STEPS_MAX)
        left = Counter({database.name: len(database.sessions) for database in self.files})
        left += Counter({server.name: len(server.backends) for server in self.servers})
        left -= Counter(backend.server.name for backend in self._half_open())
        for name, count in left.items():
            self.observer.violation(f"{count} sessions on {name} outlive their manager")

    def result(self) -> Result:
        """What became of it."""
        return Result(
            violations=tuple(self.observer.violations),
            struck=tuple(self.fuse.struck),
            told=next((attempt.told for attempt in self.attempts if attempt.tag == SCRIPTED), ""),
            lines=tuple(self.observer.lines or ()),
        )
