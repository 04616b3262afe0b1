"""What the simulation sees of the engine: its orders and facts, and the cases of the verdict table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, lru_cache
from itertools import chain
from typing import Any, Literal

from nodoubt.engine import performer, settle
from nodoubt.engine.instant import Instant
from nodoubt.errors import NodeUnavailable
from nodoubt.nodes.contract import Gate
from nodoubt.nodes.sql_gate import SqlGate
from nodoubt.protocol import messages as m
from nodoubt.protocol.ids import BranchId
from nodoubt.protocol.states import BRANCHES
from nodoubt.protocol.verdicts import Age, HomeSays, NodeSays, Verdict, Whose
from nodoubt.sim.loop import Died, Schedule
from nodoubt.sim.observer import Observer
from nodoubt.sim.seam import swapped

#: Order or fact -> the crash point at which a process that dies next leaves the transaction.
POINTS: dict[str, str] = {
    "Enlisted": "C2",
    "CommitRequested": "C3",
    "Prepare": "C4",
    "Prepared": "C5",
    "Decide": "C7",
    "DecisionDurable": "C8",
    "CommitBranch": "C9",
    "BranchCommitted": "C10",
    "Forget": "C11",
}
#: How the texts of purging and of finishing a branch begin.
PURGES = ("SELECT gid FROM", "DELETE FROM nodoubt.decision", "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;DELETE")
FINISHES = ("COMMIT PREPARED", "ROLLBACK PREPARED", "XA COMMIT", "XA ROLLBACK")


#: Steps of recovery that are no messages of the machine -> what their texts contain.
STEPS: Mapping[str, tuple[str, ...]] = {
    "unfinished": ("WHERE NOT complete", "WHERE complete = 0"),
    "list": ("pg_prepared_xacts WHERE", "XA RECOVER"),
    "probe": ("DO NOTHING RETURNING gid", "ON DUPLICATE KEY UPDATE probes"),
    "finish": FINISHES,
    "purge": PURGES,
    "gate": ("IN SHARE MODE", "LOCK TABLES"),
    "open": ("ISOLATION LEVEL REPEATABLE READ", "nodoubt_branch WHERE gid = ''"),
}
_MARKS = [(mark, step) for step, marks in STEPS.items() for mark in marks]
#: Texts whose meaning is remembered, as most are said again and again.
TEXTS_MAX = 4096


@lru_cache(maxsize=TEXTS_MAX)
def _step(text: str) -> str:
    return next((step for mark, step in _MARKS if mark in text), "")


#: What a settler may be in the middle of.
SETTLES = (*STEPS["probe"], *STEPS["finish"])


class Watcher:
    """Given to every manager as ``Settings.watch``."""

    def __init__(self, schedule: Schedule, observer: Observer) -> None:
        self._schedule = schedule
        self._observer = observer
        self.points: dict[str, str] = {}
        self._seen: Counter[str] = Counter()
        #: gid -> whether its last message was an order or a fact
        self._last: dict[str, str] = {}
        #: (message or step, how often it was seen) -> what to do then: faults that aim at the protocol instead of a time.
        #: They are told the process, the gid or the server asked, and whether they may strike before anything else happens.
        self.aimed: dict[tuple[str, int], list[Callable[[str, str, bool], object]]] = {}
        #: Called with home and the gid when a machine is told that a decision is durable.
        self.decided: Callable[[str, str], None] = lambda home, gid: None

    def __call__(self, what: Literal["order", "fact"], gid: str, message: m.Order | m.Fact) -> None:
        name = type(message).__name__
        self._seen[name] += 1
        loop: Any = self._schedule.running
        point = POINTS.get(name)
        # Of orders that are given together the first is the moment before all of them.
        before, self._last[gid] = self._last.get(gid), what
        if self.aimed:
            for strike in self.aimed.pop((name, self._seen[name]), ()):
                strike(loop.name, gid, what == "fact" or before != what)
        if loop.dead:
            raise Died
        if what == "fact":
            self._count(loop, gid, message)
        self._observer.hit(what, name)
        if self._observer.lines is not None:
            self._observer.say("machine", f"{gid[-6:]} {what} {message}")
        if point is not None:
            self.points[gid] = point

    def _count(self, loop: Any, gid: str, fact: Any) -> None:
        work = loop.owner.manager.engine.live.get(gid)
        if work is None:
            return
        name, machine = type(fact).__name__, work.machine
        if name == "DecisionDurable":
            self.decided(work.home, gid)
        self._observer.hit("transition", _spelled(machine.phase, name))
        number = getattr(fact, "branch", machine.home)
        if number is not None and number < len(machine.branches):
            state = machine.branches[number]
            if (state, type(fact)) in BRANCHES:
                self._observer.hit("transition of a branch", _spelled(state, name))

    def aim(self, what: str, strike: Callable[[str, str, bool], object], *, others_first: int = 0) -> None:
        """Call at the next message or step of that kind, behind so many others."""
        self.aimed.setdefault((what, self._seen[what] + 1 + others_first), []).append(strike)

    def overhear(self, process: str, server: str, text: str) -> None:
        """A process sends a text: a step of settling may be what a fault aims at."""
        name = _step(text)
        if name:
            self._seen[name] += 1
            for strike in self.aimed.pop((name, self._seen[name]), ()):
                # Once it was sent.
                self._schedule.after(0.0, strike, process, server, True)


@cache
def _spelled(state: str, fact: str) -> str:
    return f"{state} + {fact}"


@contextmanager
def openings_counted(observer: Observer, is_up: Callable[[str], bool]) -> Iterator[None]:
    """Count what becomes of openings. Nobody else tells that another one's branch was finished, or a gate found open."""
    closed, finish, reopen = Instant._closed, Instant._finish, Instant._reopen

    async def counted_closed(self: Instant, name: str) -> Gate:
        try:
            return await closed(self, name)
        except NodeUnavailable:
            observer.hit("opening", "a gate is held" if is_up(name) else "a home is down")
            raise

    async def counted_finish(self: Instant, node: str, branch: BranchId) -> None:
        observer.hit("opening", "finished what its owner did not")
        await finish(self, node, branch)

    async def counted_reopen(self: Instant, *, is_left: bool) -> None:
        was_lost = not is_left and not all(map(_is_closed, self._gates.values()))
        try:
            await reopen(self, is_left=is_left)
        except NodeUnavailable:
            observer.hit("opening", "thrown away, for a gate was lost")
            raise
        if was_lost:
            observer.violation("snapshots were opened, and a gate had been lost before the last of them was taken")

    with (
        swapped(Instant, "_closed", counted_closed),
        swapped(Instant, "_finish", counted_finish),
        swapped(Instant, "_reopen", counted_reopen),
    ):
        yield


def _is_closed(gate: Gate) -> bool:
    """Whether the server has the session that keeps a gate closed; that of a file lasts as long as its process."""
    session: Any = gate._session if isinstance(gate, SqlGate) else None
    return session is None or session.is_there


@contextmanager
def verdicts_counted(observer: Observer) -> Iterator[None]:
    """Count the cases of the verdict table that the engine comes to. Nothing else tells of those that need no action."""

    def counting(original: Callable[..., Verdict]) -> Callable[..., Verdict]:
        def counted(home: HomeSays, node: NodeSays, whose: Whose, age: Age) -> Verdict:
            found = original(home, node, whose, age)
            observer.hit("verdict", found.label)
            return found

        return counted

    listed = settle.Settler._listed

    async def counted_lists(self: settle.Settler, report: Any) -> Any:
        # What is foreign or live is sorted out right behind the lists, before any verdict is asked for.
        lists = await listed(self, report)
        for _ in range(sum(report.foreign.values())):
            observer.hit("verdict", "foreign")
        for branch in chain.from_iterable(lists.values()):
            if self._live(branch.id.gid):
                observer.hit("verdict", "live")
        return lists

    with ExitStack() as stack:
        stack.enter_context(swapped(settle.Settler, "_listed", counted_lists))
        for user in (settle, performer):
            stack.enter_context(swapped(user, "verdict", counting(vars(user)["verdict"])))
        yield
