"""What clients do: transfers between accounts, each with a tag that is appended to a list on every node that it writes.

The tag tells in the end on which nodes an attempt happened, and how often; the amounts tell whether anything else did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

from nodoubt.engine.asynchronous import AsyncTransaction, AsyncTransactionManager
from nodoubt.engine.request import Wishes
from nodoubt.errors import HeuristicOutcome, NodoubtError
from nodoubt.judge.history import NEVER, Op
from nodoubt.nodes.contract import Isolation, Key
from nodoubt.sim.driver import SimulatedError
from nodoubt.sim.loop import Handle
from nodoubt.sim.observer import Observer
from nodoubt.sim.plan import Plan
from nodoubt.sim.sqlite import APPEND, LOOK, MOVE

LISTS = ("l0", "l1")
ACCOUNTS = ("a0", "a1", "a2")
BALANCE = 1000
#: How often a block lets time pass before its first statement, and after its last one.
THINKS = 0.1
#: How often a serializable transaction declares its keys; else it locks the whole domain.
DECLARES = 0.8
#: More than any account holds: the databases refuse it.
OVERDRAFT = 1_000_000
#: kind of node -> the texts of the work: look, append, move.
TEXTS: Mapping[str, tuple[str, str, str]] = {
    "postgresql": (
        "SELECT items FROM list WHERE id = $1",
        "UPDATE list SET items = items || $1 WHERE id = $2",
        "UPDATE account SET balance = balance + $1 WHERE id = $2",
    ),
    "mariadb": (
        "SELECT items FROM list WHERE id = %s",
        "UPDATE list SET items = CONCAT(items, %s) WHERE id = %s",
        "UPDATE account SET balance = balance + %s WHERE id = %s",
    ),
    "sqlite": (LOOK, APPEND, MOVE),
}


class Regret(Exception):
    """A block changes its mind."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One run of a block. ``moved`` maps nodes to amounts, filled as the block goes on."""

    tag: str
    gid: str
    moved: dict[str, int] = field(default_factory=dict)
    #: What it read and appended, as the history checker reads it: ("r", (node, list), tags) or ("append", (node, list), tag).
    ops: list[Op] = field(default_factory=list)
    #: Every statement of the block succeeded.
    whole: bool = True
    #: What the caller was told: a state of Outcome, or "" when nobody was left to be told.
    told: str = ""
    #: What a new process answers in the end, where the caller was told nothing for certain.
    answered: str = ""
    #: The nodes that he was told somebody else had finished.
    strays: tuple[str, ...] = ()
    #: The manager that made it, and the moments before it began and after its caller was told that it is committed.
    manager: object = None
    began: int = 0
    ended: int = NEVER

    @property
    def known(self) -> str:
        """How it ended, as far as anybody was told."""
        return self.told if self.told in ("committed", "aborted") else self.answered


@dataclass(slots=True, eq=False)
class View:
    """What was read of several nodes at one instant; for the rest see :class:`Attempt`."""

    ops: list[Op]
    manager: object
    began: int
    ended: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a block does on one node: look at a list if it is told to, and, unless it only reads, append to one and move money."""

    node: str
    look: str = ""
    append: str = ""
    account: str = ""
    amount: int = 0

    @property
    def keys(self) -> Iterator[Key]:
        """What stands for the rows that it touches."""
        if self.look:
            yield Key(name=f"{self.node}/{self.look}", shared=True)
        if self.append:
            yield Key(name=f"{self.node}/{self.append}")
            yield Key(name=f"{self.node}/{self.account}")


@dataclass(slots=True)
class Chronicle:
    """What all clients of a history did, and when: moments are counted."""

    attempts: list[Attempt] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    moment: Callable[[], int] = field(default_factory=lambda: count().__next__)


class Client:
    """One task of a process that makes transactions one after another."""

    def __init__(
        self,
        name: str,
        plan: Plan,
        observer: Observer,
        chronicle: Chronicle,
        random: Random,
        left: int,
        errand: str = "",
    ) -> None:
        self.name = name
        #: Transactions that are still to be made, by this process or the next one.
        self.left = left
        self._plan = plan
        self._observer = observer
        self._attempts = chronicle.attempts
        self._views = chronicle.views
        self._moment = chronicle.moment
        self._random = random
        self._tags = 0
        #: The node that each of its transactions writes, alone or behind another; "" for whatever is drawn.
        self._errand = errand
        #: What it looks at next, and at once: what it was told is committed, and not yet on which nodes.
        self._doubts: list[Step] = []

    async def work(self, manager: AsyncTransactionManager) -> None:
        """Make the transactions that are left."""
        # Evenly over the time, or all at once.
        pace = (self.left + 1) / self._plan.horizon_s * self._random.choice(self._plan.paces)
        while self.left:
            self.left -= 1
            pause_s = self._random.expovariate(pace)
            faults_s = max(0.0, self._plan.horizon_s - asyncio.get_running_loop().time())
            if self._plan.heals and pause_s >= faults_s:
                # Behind the last fault one more shows that all is well again, and nobody waits for it.
                self.left, pause_s = 0, faults_s + self._random.random()
            await asyncio.sleep(0.0 if self._doubts else pause_s)
            await self._one(manager)

    async def work_at_once(self, manager: AsyncTransactionManager) -> None:
        """Make the transactions that are left, without a pause."""
        while self.left:
            self.left -= 1
            await self._one(manager)

    async def _one(self, manager: AsyncTransactionManager) -> None:
        random, rates = self._random, self._plan.rates
        timeout = 10.0
        if random.random() < rates.get("caller times out", 0):
            self._observer.hit("fault", "caller times out")
            timeout = 10 ** random.uniform(-3, 0.3)
        cancel: Handle | None = None
        if random.random() < rates.get("caller cancels", 0):
            task = asyncio.current_task()
            assert task is not None
            delay = 10 ** random.uniform(-3.3, 0)
            cancel = asyncio.get_running_loop().call_later(delay, task.cancel)  # type: ignore[assignment]
        mine = len(self._attempts)
        errors: list[BaseException] = []
        try:
            if random.random() < self._plan.views:
                await self._view(manager, timeout)
            else:
                await self._transact(manager, timeout)
        except asyncio.CancelledError as error:
            if cancel is None:
                self._observer.violation(f"{self.name}: cancelled, and by nobody")
            self._observer.hit("fault", "caller cancels")
            errors.append(error)
            current = asyncio.current_task()
            while current is not None and current.uncancel():
                """The deadline may have struck as well."""
        except (NodoubtError, SimulatedError, ConnectionError, Regret) as error:
            errors.append(error)
        finally:
            if cancel is not None:
                cancel.cancel()
        if self._observer.lines is not None:
            said = f"{type(errors[0]).__name__}: {errors[0]}".split("\n", 1)[0] if errors else "committed"
            told = [f"{attempt.tag} {attempt.gid} {attempt.told}" for attempt in self._attempts[mine:]]
            self._observer.say(self.name, f"is told of {', '.join(told) or 'nothing'}: {said}")

    async def _view(self, manager: AsyncTransactionManager, timeout: float) -> None:
        """Read several nodes at one instant."""
        random, nodes, ops = self._random, self._plan.nodes, list[Op]()
        began = self._moment()
        names = random.sample(list(nodes), random.randint(2, len(nodes)))
        async with manager.snapshot(*names, max_age=timeout) as view:
            for name in names:
                connection = await view.on(name)
                for key in LISTS:
                    await self._look(connection, ops, name, key)
                if random.random() < THINKS:
                    await asyncio.sleep(random.random())
        self._views.append(View(ops, manager, began, self._moment()))

    async def _transact(self, manager: AsyncTransactionManager, timeout: float) -> None:
        random = self._random
        job = self._draw()
        wishes = self._wishes(job) if self._plan.isolation is not Isolation.ATOMIC else {}
        began = self._moment()
        if random.random() < 0.3:
            await self._run(manager, timeout, job, wishes, began)
            return
        # Of owners that sleep those are of interest whose home has nothing to do.
        home = random.choice([*self._plan.nodes, *([] if self._plan.sleepy else [None, None])])
        tx = manager.transaction(timeout=timeout, home=home, **wishes)
        attempt: Attempt | None = None
        try:
            async with tx:
                attempt = self._attempt(manager, tx, began)
                await self._do(tx, attempt, job)
        except HeuristicOutcome as error:
            assert attempt is not None
            attempt.strays = error.outcome.strays if error.outcome else ()
            raise
        finally:
            if attempt is not None:
                self._tell(attempt, tx.outcome.state)
                written = [place for kind, place, _ in attempt.ops if kind == "append"]
                self._doubts = [Step(node=node, look=key) for node, key in written if node in tx.outcome.pending]

    async def _run(
        self, manager: AsyncTransactionManager, timeout: float, job: Sequence[Step], wishes: Wishes, began: int
    ) -> None:
        """Let the manager try again what can be; each try is an attempt of its own."""
        tries: list[Attempt] = []

        async def block(tx: AsyncTransaction) -> None:
            # That it is tried again says that the one before is aborted.
            for before in tries:
                before.told = "aborted"
            # What is named beforehand stays; else another try may well do something else, and have another home.
            mine = self._draw() if tries and not wishes else job
            tries.append(self._attempt(manager, tx, began))
            await self._do(tx, tries[-1], mine)

        try:
            await manager.run(block, attempts=2, timeout=timeout, **wishes)
        except NodoubtError as error:
            if tries and error.gid == tries[-1].gid and error.outcome is not None:
                self._tell(tries[-1], error.outcome.state)
                tries[-1].strays = error.outcome.strays
            raise
        self._tell(tries[-1], "committed")

    def _attempt(self, manager: AsyncTransactionManager, tx: AsyncTransaction, began: int) -> Attempt:
        self._tags += 1
        attempt = Attempt(f"{self.name}.{self._tags}", tx.gid, manager=manager, began=began)
        self._attempts.append(attempt)
        return attempt

    def _tell(self, attempt: Attempt, state: str) -> None:
        attempt.told = state
        if state == "committed":
            attempt.ended = self._moment()

    def _draw(self) -> list[Step]:
        """What a block is going to do."""
        if self._doubts:
            doubts, self._doubts = self._doubts, []
            return doubts
        random, nodes = self._random, self._plan.nodes
        names = random.sample(list(nodes), random.choice((1, 2, len(nodes), len(nodes))))
        if self._errand:
            others = [name for name in nodes if name != self._errand]
            names = [*random.sample(others, random.randrange(2)), self._errand]
        elif self._plan.forgetful and random.random() < 0.8:
            # Of what a lone writer did nothing is found again, and readers may have seen it.
            home, *others = nodes
            if random.random() < 0.6:
                names = [home, *random.sample(others, random.randrange(len(others)))]
                return [Step(node=name, look=random.choice(LISTS)) for name in names]
            names = [home]
        amounts = [random.randint(1, 9) for _ in names[1:]]
        job = [
            Step(
                node=name,
                look=random.choice(LISTS) if random.random() < 0.5 else "",
                append=random.choice(LISTS),
                account=random.choice(ACCOUNTS),
                amount=amount,
            )
            for name, amount in zip(names, [-sum(amounts), *amounts], strict=True)
        ]
        others = [name for name in nodes if name not in names]
        drawn = random.random()
        if others and drawn < 0.65:
            job.insert(0 if drawn < 0.3 else len(job), Step(node=random.choice(others), look=random.choice(LISTS)))
        return job

    def _wishes(self, job: Sequence[Step]) -> Wishes:
        """What a transaction of the plan's level asks for."""
        random, isolation = self._random, self._plan.isolation
        wishes: Wishes = {"isolation": isolation.value}
        if isolation is Isolation.SNAPSHOT or random.random() < 0.3:
            wishes["nodes"] = [step.node for step in job if step.append]
            wishes["reads"] = [step.node for step in job if not step.append]
        if isolation is Isolation.SERIALIZABLE and random.random() < DECLARES:
            wishes["keys"] = [key for step in job for key in step.keys]
        return wishes

    async def _do(self, tx: AsyncTransaction, attempt: Attempt, job: Sequence[Step]) -> None:
        random, nodes, rates = self._random, self._plan.nodes, self._plan.rates
        if random.random() < THINKS:
            await asyncio.sleep(random.random() * self._plan.latency_s * 10)
        for step in job:
            name = step.node
            connection: Any = await tx.on(name, read_only=not step.append)
            if step.look:
                await self._look(connection, attempt.ops, name, step.look)
            if not step.append:
                continue
            _, append, move = TEXTS[nodes[name]]
            attempt.moved[name] = step.amount
            try:
                if random.random() < rates.get("block ignores an error", 0):
                    attempt.whole = False
                    await connection.execute(move, -OVERDRAFT, step.account)
                attempt.ops.append(("append", (name, step.append), attempt.tag))
                await connection.execute(append, attempt.tag, step.append)
                await connection.execute(move, step.amount, step.account)
            except SimulatedError:
                if "block ignores an error" not in rates:
                    raise
                self._observer.hit("fault", "block ignores an error")
                attempt.whole = False
        if random.random() < rates.get("block raises", 0):
            self._observer.hit("fault", "block raises")
            raise Regret
        if random.random() < THINKS:
            await asyncio.sleep(random.random())

    async def _look(self, connection: Any, ops: list[Op], name: str, key: str) -> None:
        ((tags,),) = await connection.execute(TEXTS[self._plan.nodes[name]][0], key)
        ops.append(("r", (name, key), tags))
