"""The points at which a worker is struck while it opens a snapshot."""

from __future__ import annotations

from nodoubt.torture import gates
from tests.engine.stage import NAMES, Stage


async def test_a_worker_can_be_struck_at_every_gate_while_it_is_closed() -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    work = engine.begin(isolation="snapshot", nodes=(), reads=NAMES)
    told: list[str] = []
    gates.watch(engine.nodes.values(), told.append)
    await work.open_named()
    assert told == [gates.CLOSED] * 3 + [gates.REOPENING] * 3
    await work.roll_back("enough")


async def test_a_transaction_that_opens_no_snapshot_reaches_none() -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    told: list[str] = []
    gates.watch(engine.nodes.values(), told.append)
    await (await stage.write(engine)).commit()
    assert told == []
    assert stage.written() == set(NAMES)
