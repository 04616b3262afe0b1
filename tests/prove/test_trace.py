"""Recorded runs of the real engine, on databases in memory, are behaviours of the twin in TLA+."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from nodoubt.engine.work import Work
from nodoubt.nodes.memory_calls import Fate
from nodoubt.nodes.memory_database import MemoryDatabase
from nodoubt.nodes.memory_packets import BRANCH
from nodoubt.protocol import messages as m
from nodoubt.protocol.states import Phase
from tests.engine.stage import Stage, Trouble, told
from tests.prove.twin import ENDS, function, quoted, tlc

PARTICIPANTS = ("left", "right")


class Killed(BaseException):
    """What a kill looks like to a coroutine."""


class Recorder:
    """Sees the databases and the owner at every order of the owner, and at every order and fact of whoever settles.

    Not at the owner's facts: the databases are ahead of its machine there, and in the twin both go in one step.
    """

    def __init__(self) -> None:
        self.stage = Stage("home", *PARTICIPANTS)
        self.records: list[str] = []
        self.work: Work | None = None
        self.kill_at: type[m.Order | m.Fact] | None = None
        self.killed = False
        #: Somebody else is at work while the owner waits.
        self.overtaking = False
        self._committed: set[str] = set()

    def watch(self, kind: Literal["order", "fact"], gid: str, message: m.Order | m.Fact) -> None:
        if self.work is not None and (kind == "order" or self.killed or self.overtaking):
            self.record()
        if self.kill_at is not None and isinstance(message, self.kill_at):
            self.kill_at, self.killed = None, True
            raise Killed

    async def begin(self) -> Work:
        await self.stage.install()
        self.engine = await self.stage.process(watch=self.watch)
        self.work = await self.stage.write(self.engine)
        self.record()
        return self.work

    def record(self) -> None:
        part = function({name: self._standing(name, self.stage.databases[name]) for name in PARTICIPANTS})
        step = f"[row |-> {quoted(self._row())}, part |-> {part}, pc |-> {quoted(self._owner())}]"
        if step not in self.records[-1:]:
            self.records.append(step)

    def _row(self) -> str:
        assert self.work is not None
        match self.stage.decision(self.work.gid):
            case None:
                return "none"
            case ("committed", True):
                return "complete"
            case (decision, _):
                return decision

    def _owner(self) -> str:
        assert self.work is not None
        phase = self.work.machine.phase
        return "gone" if self.killed else "preparing" if phase is Phase.ACTIVE else ENDS.get(phase, phase.value)

    def _standing(self, name: str, database: MemoryDatabase) -> str:
        if database.prepared:
            return "prepared"
        if database.tables[BRANCH]:
            self._committed.add(name)
            return "committed"
        if name in self._committed:
            return "cleared"
        assert not database.tables["fact"]
        return "open" if any(work and work.writes for work in database._open.values()) else "gone"

    def module(self) -> str:
        """The records as a module of TLA+."""
        return "---- MODULE Steps ----\nSteps == <<\n" + ",\n".join(self.records) + "\n>>\n====\n"


async def plain(recorder: Recorder) -> None:
    assert await told(await recorder.begin()) == "committed"
    await recorder.engine.flush()


async def refused(recorder: Recorder) -> None:
    work = await recorder.begin()
    recorder.stage.trouble(Trouble(node="right", call="prepare", fate=Fate.REFUSED))
    assert await told(work) == "Aborted"


async def answer_lost(recorder: Recorder) -> None:
    work = await recorder.begin()
    recorder.stage.trouble(Trouble(node="home", call="decide", fate=Fate.UNHEARD))
    assert await told(work) == "committed"
    await recorder.engine.flush()


async def killed_after_deciding(recorder: Recorder) -> None:
    work = await recorder.begin()
    recorder.kill_at = m.CommitBranch
    with pytest.raises(Killed):
        await work.commit()
    recorder.record()
    assert (await recorder.engine.settle(grace_s=0.0)).committed == 2


async def killed_before_deciding(recorder: Recorder) -> None:
    work = await recorder.begin()
    recorder.kill_at = m.Decide
    with pytest.raises(Killed):
        await work.commit()
    recorder.record()
    assert (await recorder.engine.settle(grace_s=0.0)).rolled_back == 2


async def overtaken(recorder: Recorder) -> None:
    """The owner pauses before its decision, and meets the tombstone of somebody who settled meanwhile."""
    work = await recorder.begin()
    other = await recorder.stage.process(watch=recorder.watch)
    settling: list[Coroutine[Any, Any, Any]] = [other.settle(grace_s=0.0)]
    real = type(work._branches[0]).decide

    async def decide(branch: Any, participants: Any) -> Any:
        recorder.overtaking = True
        await settling.pop()
        recorder.overtaking = False
        return await real(branch, participants)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(work._branches[0]), "decide", decide)
        assert await told(work) == "Aborted"


async def purged(recorder: Recorder) -> None:
    await plain(recorder)
    recorder.record()
    recorder.engine.settings = replace(recorder.engine.settings, retention_s=-1.0)
    recorder.engine.world.unix_ms = lambda: 2**47  # type: ignore[method-assign]
    assert await recorder.engine.purge() > 0


RUNS = (plain, refused, answer_lost, killed_after_deciding, killed_before_deciding, overtaken, purged)


def allowed(module: str, folder: Path) -> bool:
    """Whether TLC finds a behaviour of the twin that meets all records."""
    (folder / "Steps.tla").write_text(module, encoding="utf-8")
    text = tlc(folder, "Trace.tla", "Trace.cfg").text
    met = "Invariant NotYet is violated" in text
    assert met != ("No error has been found" in text), text
    return met


@pytest.mark.parametrize("run", RUNS)
async def test_a_run_of_the_engine_is_a_behaviour_of_the_twin(
    run: Callable[[Recorder], Coroutine[Any, Any, None]], tmp_path: Path
) -> None:
    recorder = Recorder()
    await run(recorder)
    recorder.record()
    assert len(recorder.records) > 3
    assert allowed(recorder.module(), tmp_path)


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ('row |-> "committed", part |-> [left |-> "prepared"', 'row |-> "none", part |-> [left |-> "committed"'),
        ('row |-> "complete"', 'row |-> "aborted"'),
        ('pc |-> "is committed"', 'pc |-> "is aborted"'),
    ],
)
async def test_a_forged_run_is_no_behaviour_of_the_twin(was: str, becomes: str, tmp_path: Path) -> None:
    recorder = Recorder()
    await plain(recorder)
    recorder.record()
    module = recorder.module()
    assert was in module
    assert not allowed(module.replace(was, becomes), tmp_path)
