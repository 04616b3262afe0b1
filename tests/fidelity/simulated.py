"""The simulated side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from random import Random
from typing import Any, cast

from nodoubt.nodes.dialect import NodeSettings, Row, Session
from nodoubt.sim.driver import SimulatedDriver, SimulatedError, SimulatedSession
from nodoubt.sim.loop import ProcessLoop, Schedule
from nodoubt.sim.mariadb import MariaDBServer
from nodoubt.sim.network import Network
from nodoubt.sim.observer import Observer
from nodoubt.sim.process import DIALECTS
from nodoubt.sim.run import SERVERS
from nodoubt.sim.server import EPOCH_S
from nodoubt.sim.store import Tables
from nodoubt.sim.workload import ACCOUNTS, BALANCE, LISTS
from tests.fidelity.actor import DOMAIN, Actor
from tests.fidelity.names import Names
from tests.fidelity.play import Side

#: How far time goes between two looks: less than any time-out.
LOOK_S = 0.0005
#: No step takes so long.
STEP_S_MAX = 100.0


def first_rows() -> Tables:
    """What is in a database before the first step."""
    return {
        "node": {1: ("home", DOMAIN, "1234567890", 1)},
        "decision": {},
        "branch": {},
        "list": dict.fromkeys(LISTS, ()),
        "account": dict.fromkeys(ACCOUNTS, BALANCE),
    }


class SimulatedSide(Side):
    """A simulated server on a network that never fails."""

    def __init__(self, kind: str) -> None:
        self.names = Names(int(EPOCH_S * 1000), Random(kind).randbytes)
        family, _, log = kind.partition("_")
        self.dialect = DIALECTS[family]()
        self._schedule = Schedule()
        observer = Observer(lambda: self._schedule.now, traced=False)
        self._network = Network(self._schedule, observer, Random(1), Random(2), {}, 0.0001, {})
        self.server = SERVERS[family]("home", self._schedule, observer, Random(3), first_rows())
        if isinstance(self.server, MariaDBServer):
            self.server.free_s = 0.0
            self.server.logs = bool(log)
        self._loop = ProcessLoop(self._schedule, "test")
        self._driver = SimulatedDriver(self._loop, self._network, "test", self.server)
        self._tokens = 0

    def party(self, name: str) -> Actor:
        return Actor(name, self.dialect, self.names, self.connect, self.work)

    async def connect(self, settings: NodeSettings) -> Session:
        session = await self._driver.connect(settings)
        self._tokens += 1
        session.token = f"sess{self._tokens:04}"
        return session

    async def work(self, connection: Any, session: Session, sql: str, values: Sequence[Any]) -> Sequence[Row]:
        try:
            return cast(Sequence[Row], await connection.execute(sql, *values))
        except (SimulatedError, ConnectionError) as error:
            raise cast(Exception, error.__cause__) from None

    def launch(self, step: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._loop.create_task(step)

    def settle(self, working: Mapping[asyncio.Task[None], Actor], leaving: Collection[Session]) -> None:
        def is_settled() -> bool:
            rests = all(task.done() or _waits(actor.handle) for task, actor in working.items())
            return rests and all(_is_gone(session) or _waits(session) for session in leaving)

        # A lock that was handed on is taken a moment later.
        self._schedule.run(self._schedule.now + LOOK_S, 10_000)
        self._until(is_settled)

    def finish(self, tasks: Collection[asyncio.Task[None]]) -> None:
        self._until(lambda: all(task.done() for task in tasks))

    def end(self, session: Session) -> None:
        if not _is_gone(session):
            _backend(session).terminate()
        self._until(lambda: _is_gone(session))

    def await_gone(self, session: Session) -> None:
        self._until(lambda: _is_gone(session))

    def restart(self) -> None:
        # The real one writes nothing to its disk but what somebody waits for.
        self.server.store.lose(self.server.store.forced)
        self.server.crash()
        self._until(lambda: self.server.up)

    def _until(self, fact: Callable[[], bool]) -> None:
        end = self._schedule.now + STEP_S_MAX
        while not fact():
            assert self._schedule.now < end, "the simulated server hangs"
            self._schedule.run(self._schedule.now + LOOK_S, 10_000)
            assert not self._schedule.bugs, self._schedule.bugs

    def close(self) -> None:
        self._loop.bury()

    def tables(self) -> list[str]:
        store = self.server.store
        plain = self.names.plain
        decisions = [
            f"decision {plain(gid)} {[plain(row[place]) for place in (0, 1, 2, 4, *range(5, len(row)))]}"
            for gid, row in sorted(store.tables["decision"].items())
        ]
        return [
            *[f"list {key} {plain(row)}" for key, row in store.tables["list"].items()],
            *[f"account {key} {row}" for key, row in store.tables["account"].items()],
            *decisions,
            *[f"branch {plain(gid)} {branch}" for gid, branch in sorted(store.tables["branch"])],
            *sorted(f"prepared {next(n for g, n in self.names.known.items() if g in name)}" for name in store.prepared),
        ]


def _backend(session: Session) -> Any:
    return cast(SimulatedSession, session)._line.backend


def _waits(session: Session | None) -> bool:
    if session is None:
        return False
    txn = _backend(session).txn
    return txn is not None and txn.waits_for is not None


def _is_gone(session: Session) -> bool:
    return not _backend(session).alive
