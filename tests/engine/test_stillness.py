"""Snapshots without gates: every order in which a writer's steps can fall between those of an opening, on nodes in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar, cast

import pytest

from nodoubt.engine.engine import Engine
from nodoubt.engine.instant import Instant
from nodoubt.engine.stillness import SKIPS_MAX, Stillness
from nodoubt.engine.worlds import AsyncWorld
from nodoubt.nodes.contract import Ended, Glance, Glancing, Isolation, Said, Terms
from nodoubt.nodes.memory import MemoryDialect, MemoryNode
from nodoubt.nodes.memory_database import MemoryDatabase
from nodoubt.nodes.sql_branch import SqlBranch
from nodoubt.protocol.ids import BranchId, new_gid
from tests.engine.stage import DOMAIN, Stage, looking, seen, told

T = TypeVar("T")
Step = Callable[[], Coroutine[Any, Any, object]]

SNAPSHOT = Terms(isolation=Isolation.SNAPSHOT)
A, B = "a", "b"
#: What a view may show of both nodes: how many of the two rows there are.
WHOLE = {(0, 0), (1, 1)}
IN_TURN = {(0, 0), (1, 0), (1, 1)}


class Still(Stage):
    """A stage whose nodes tell of stillness."""

    dialect = MemoryDialect


class Scripted(AsyncWorld):
    """Between two steps that are done at once somebody else may take some of his."""

    def __init__(self, others: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._others = others

    async def together(self, steps: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        results = []
        for step in steps:
            await self._others()
            results.append(await step)
        return results


class Writer:
    """Writes to both nodes, a step at a time."""

    def __init__(self, nodes: dict[str, MemoryNode], world: AsyncWorld) -> None:
        self._nodes = nodes
        self._gids = iter([new_gid(world.unix_ms(), world.random(10)) for _ in range(2)])
        self._branches: dict[str, SqlBranch] = {}
        self._gid = next(self._gids)

    async def write(self, name: str, *, home: str) -> None:
        branch = BranchId(domain=DOMAIN, gid=self._gid, branch=int(name != home), home=home)
        self._branches[name] = await self._nodes[name].begin(branch, read_only=False, is_home=name == home)
        await self._branches[name].connection.put("fact", "key", 1)

    async def prepare(self, name: str) -> None:
        assert (await self._branches[name].prepare()).said is Said.YES

    async def decide(self, name: str, *others: str) -> None:
        assert (await self._branches[name].decide(dict(enumerate(others, 1)))).said is Said.YES

    async def commit(self, name: str) -> None:
        assert await self._branches[name].commit() is Ended.DONE

    async def write_alone(self, name: str) -> None:
        await self.write(name, home=name)
        await self.decide(name)
        self._gid = next(self._gids, "")


def two_phases(writer: Writer, home: str, other: str) -> list[Step]:
    """A transaction of both nodes."""
    return [
        lambda: writer.write(home, home=home),
        lambda: writer.write(other, home=home),
        lambda: writer.prepare(other),
        lambda: writer.decide(home, other),
        lambda: writer.commit(other),
    ]


def in_turn(writer: Writer, first: str, second: str) -> list[Step]:
    """A transaction of one node, and behind it one of the other."""
    return [lambda: writer.write_alone(first), lambda: writer.write_alone(second)]


class Openings:
    """Two openings, one after the other, with a writer's steps before, between, and in the second."""

    def __init__(self, points: Sequence[int]) -> None:
        #: For each of the writer's steps, the point before which it is taken: 0 before the first opening, 1 behind it.
        self._points = list(points)
        self._point = 0
        self._steps: list[Step] = []
        self.shown: set[tuple[int, int]] = set()
        self.glances: list[Glance] = []

    async def _go_on(self) -> None:
        while self._points and self._points[0] <= self._point:
            self._points.pop(0)
            await self._steps.pop(0)()
        self._point += 1

    async def run(self, program: Callable[[Writer, str, str], list[Step]], first: str, second: str) -> None:
        stage = Still(A, B)
        await stage.install()
        self._steps = program(Writer({name: stage.node(name) for name in (A, B)}, stage.world), first, second)
        await self._go_on()
        nodes = {name: stage.node(name) for name in (A, B)}
        await self._open(nodes, stage.world)
        await self._open(nodes, Scripted(self._go_on))

    async def _open(self, nodes: dict[str, MemoryNode], world: AsyncWorld) -> None:
        gid = new_gid(world.unix_ms(), world.random(10))
        branches = [
            await node.begin(
                BranchId(domain=DOMAIN, gid=gid, branch=0, home=A), read_only=True, is_home=False, terms=SNAPSHOT
            )
            for node in nodes.values()
        ]
        is_one = await Stillness(world).shows_one_instant(cast(Sequence[Glancing], branches))
        if is_one:
            one, two = [int(await branch.connection.get("fact", "key") or 0) for branch in branches]
            self.shown.add((one, two))
        for branch in branches:
            assert (await branch.release()).said is Said.YES


async def torn(program: Callable[[Writer, str, str], list[Step]], whole: set[tuple[int, int]]) -> tuple[int, int]:
    """Of all orders, how many show something that never was, and how many show all of it in the second opening."""
    wrong = late = 0
    for first, second in ((A, B), (B, A)):
        steps = len(program(cast(Writer, None), first, second))
        # In the second opening two glances and two questions come behind the points 1 to 4.
        for points in itertools.combinations_with_replacement(range(6), steps):
            openings = Openings(points)
            await openings.run(program, first, second)
            shown = openings.shown if first == A else {(two, one) for one, two in openings.shown}
            wrong += not shown <= whole
            late += points[0] > 0 and (1, 1) in shown
    return wrong, late


@pytest.mark.parametrize(("program", "whole"), [(two_phases, WHOLE), (in_turn, IN_TURN)])
async def test_what_is_shown_was_there_at_one_instant(program: Any, whole: set[tuple[int, int]]) -> None:
    wrong, late = await torn(program, whole)
    assert wrong == 0
    assert late > 0, "never tried behind a writer"


async def _yes(self: SqlBranch) -> bool:
    return True


_glance, _do_glance, _do_prepare = SqlBranch.glance, MemoryDatabase._do_glance, MemoryDatabase._do_prepare


async def _unmoved(self: SqlBranch) -> Glance:
    found = await _glance(self)
    return Glance.UNMOVED if found is Glance.QUIET else found


def _overlooks_prepared(self: MemoryDatabase, session: int) -> str:
    prepared, self.prepared = self.prepared, {}
    told = _do_glance(self, session)
    self.prepared = prepared
    return told


def _prepares_still(self: MemoryDatabase, session: int, name: str) -> str:
    tag = _do_prepare(self, session, name)
    self._history.moves -= 1
    return tag


@pytest.mark.parametrize(
    ("where", "name", "wrong"),
    [
        (SqlBranch, "is_still", _yes),
        (SqlBranch, "glance", _unmoved),
        (MemoryDatabase, "_do_glance", _overlooks_prepared),
        (MemoryDatabase, "_do_prepare", _prepares_still),
    ],
    ids=["not asked again", "quiet for unmoved", "prepared overlooked", "preparing moves nothing"],
)
async def test_without_any_part_something_is_torn(
    where: type, name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, wrong)
    assert (await torn(two_phases, WHOLE))[0] > 0


# Where it is tried


@pytest.fixture
def closings(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One for each time that gates were closed."""
    found: list[None] = []
    opened = Instant.open

    async def counted(self: Instant, *args: Any) -> None:
        found.append(None)
        await opened(self, *args)

    monkeypatch.setattr(Instant, "open", counted)
    return found


async def both(stage: Stage, engine: Engine) -> set[str | None]:
    """Open a view of everything, look, and close it."""
    view = await looking(engine)
    shown = await seen(view)
    assert await told(view) == "committed"
    return shown


async def test_where_all_stand_still_no_gate_is_closed(closings: list[None]) -> None:
    stage = Still()
    await stage.install()
    engine = await stage.process()
    for _ in range(3):
        assert await both(stage, engine) == {None}
    work = await stage.write(await stage.process())
    assert await told(work) == "committed"
    assert await both(stage, engine) == {work.gid}
    assert closings == []


async def test_where_somebody_is_at_work_gates_are_closed_and_tries_grow_rare(closings: list[None]) -> None:
    stage = Still()
    await stage.install()
    engine = await stage.process()
    tries = 0
    glance = SqlBranch.glance

    async def counted(self: SqlBranch) -> Glance:
        nonlocal tries
        tries += 1
        return await glance(self)

    work = await stage.write(await stage.process())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SqlBranch, "glance", counted)
        openings = 2 * SKIPS_MAX
        for _ in range(openings):
            assert await both(stage, engine) == {None}
        assert len(closings) == openings
        # One in 2, 4, 8 ...; three nodes are glanced at each time.
        assert tries == 3 * 7
        assert await told(work) == "committed"
        for _ in range(SKIPS_MAX + 1):
            assert await both(stage, engine) == {work.gid}
        assert tries == 3 * 9, "now it succeeds every time"
        assert len(closings) == openings + SKIPS_MAX - 1


async def test_who_writes_sees_one_instant_without_gates_too(closings: list[None]) -> None:
    stage = Still()
    await stage.install()
    engine = await stage.process()
    work = engine.begin(isolation="snapshot")
    await work.open_named()
    for name in engine.nodes:
        await (await work.on(name)).put("fact", "key", work.gid)
    assert await told(work) == "committed"
    assert await both(stage, engine) == {work.gid}
    assert closings == []
