"""A stage for engine tests: databases in memory that outlive their processes, and engines as those processes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from nodoubt.engine.engine import Engine, Settings
from nodoubt.engine.work import Work
from nodoubt.engine.worlds import AsyncWorld
from nodoubt.errors import NodoubtError
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.memory import MemoryDialect, MemoryNode
from nodoubt.nodes.memory_calls import Call, Fate
from nodoubt.nodes.memory_database import MemoryDatabase
from nodoubt.nodes.memory_database import Work as Written
from nodoubt.nodes.memory_packets import DECISION
from nodoubt.protocol.ids import BranchId, new_gid

DOMAIN = "shop"
NAMES = ("home", "left", "right")


@dataclass(kw_only=True)
class Trouble:
    """What happens once, to the first call of that name on that database."""

    node: str
    call: str
    fate: Fate


class Gated(MemoryDialect):
    """Tells nothing of stillness, so that every opening closes the gates."""

    capabilities = replace(MemoryDialect.capabilities, tells_stillness=False)


class Stage:
    """Named databases. The first one is home wherever nothing else is said."""

    #: Of its nodes.
    dialect: type[MemoryDialect] = Gated

    def __init__(self, *names: str) -> None:
        self.world = AsyncWorld()
        self.databases = {name: MemoryDatabase(self.world.now) for name in names or NAMES}

    async def install(self) -> None:
        """Make our tables everywhere."""
        for name in self.databases:
            await self.node(name).install()

    def node(self, name: str) -> MemoryNode:
        """A node object of its own."""
        settings = NodeSettings(url="", lock_timeout_s=0.02, acquire_timeout_s=0.5)
        return MemoryNode(name, DOMAIN, settings, self.world, self.databases[name], self.dialect())

    async def process(self, *names: str, **settings: Any) -> Engine:
        """Another process, with all nodes or some."""
        nodes = [self.node(name) for name in names or self.databases]
        engine = Engine(nodes, self.world, domain=DOMAIN, settings=Settings(**settings))
        await engine.open()
        return engine

    async def write(self, engine: Engine, key: str = "key") -> Work:
        """A transaction that wrote one row everywhere."""
        work = engine.begin()
        for name in engine.nodes:
            await (await work.on(name)).put("fact", key, work.gid)
        return work

    def trouble(self, *troubles: Trouble) -> None:
        """Let these things happen, each once."""
        for name, database in self.databases.items():
            database.faults = _once([trouble for trouble in troubles if trouble.node == name])

    def on_call(self, node: str, call: str, act: Callable[[], None]) -> None:
        """Do something just before the first call of that name on a database."""
        waiting = [act]

        def faults(found: Call) -> Fate:
            if found.name == call and waiting:
                waiting.pop()()
            return Fate.FINE

        self.databases[node].faults = faults

    def heal(self) -> None:
        """From now on everything runs and answers, and what was on its way arrives."""
        for database in self.databases.values():
            database.faults = lambda call: Fate.FINE
            database.start()
            database.deliver()

    def written(self, key: str = "key") -> set[str]:
        """The nodes on which the row is committed."""
        return {name for name, database in self.databases.items() if key in database.tables["fact"]}

    def prepared(self) -> dict[str, list[str]]:
        """What is prepared, by node; nodes without it are left out."""
        return {name: list(database.prepared) for name, database in self.databases.items() if database.prepared}

    def snapshot(self) -> Any:
        """Everything that is durable."""
        return copy.deepcopy({name: (dict(db.tables), list(db.prepared)) for name, db in self.databases.items()})

    def leave(self, name: str, branch: int = 1, *, gid: str = "", home: str = "home", age_s: float = 3600.0) -> str:
        """Leave a prepared branch behind, as a process that died long ago would have; returns its gid."""
        gid = gid or new_gid(self.world.unix_ms(), self.world.random(10))
        branch_id = BranchId(domain=DOMAIN, gid=gid, branch=branch, home=home)
        writes = {("fact", "key"): gid, ("nodoubt.branch", f"{gid} {branch}"): True}
        self.databases[name].prepared[branch_id.text()] = Written(writes=writes, since_s=self.world.now() - age_s)
        return gid

    def decide(self, gid: str, participants: str, *, decision: str = "committed", complete: bool = False) -> None:
        """Leave a decision row behind, an hour old."""
        self.databases["home"].tables[DECISION][gid] = [
            decision,
            participants,
            complete,
            self.world.now() - 3600,
            "",
        ]

    def decision(self, gid: str) -> tuple[str, bool] | None:
        """The decision at home, and whether it is complete."""
        row = self.databases["home"].tables[DECISION].get(gid)
        return (row[0], row[2]) if row else None


def _once(troubles: list[Trouble]) -> Callable[[Call], Fate]:
    def faults(call: Call) -> Fate:
        for trouble in troubles:
            if trouble.call == call.name:
                troubles.remove(trouble)
                return trouble.fate
        return Fate.FINE

    return faults


async def told(work: Work) -> str:
    """Commit, and what the caller is told: the name of the error, or `committed`. An error knows whose it is."""
    try:
        await work.commit()
    except NodoubtError as error:
        is_right = (error.gid, error.outcome) == (work.gid, work.outcome)
        return type(error).__name__ if is_right else f"{error!r} of {error.gid} with {error.outcome}"
    return work.outcome.state


async def looking(engine: Engine, *names: str) -> Work:
    """A view of some nodes, open."""
    work = engine.begin(isolation="snapshot", nodes=(), reads=names or NAMES)
    await work.open_named()
    return work


async def seen(work: Work, *names: str) -> set[Any]:
    """What the row holds on each of these nodes."""
    return {await (await work.on(name, read_only=True)).get("fact", "key") for name in names or NAMES}
