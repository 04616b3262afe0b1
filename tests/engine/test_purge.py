"""Purging on nodes in memory: what is old and complete goes, with the evidence that a crash left behind."""

from __future__ import annotations

import pytest

from nodoubt.engine.settle import BATCH
from nodoubt.nodes.memory_packets import BRANCH, DECISION
from nodoubt.protocol.ids import new_gid
from tests.engine.stage import Stage


async def test_purge_keeps_what_is_young_or_open() -> None:
    stage = Stage()
    await stage.install()
    gids = {}
    for name, (decision, complete) in {
        "complete": ("committed", True),
        "open": ("committed", False),
        "tombstone": ("aborted", False),
    }.items():
        gids[name] = stage.leave("left")
        stage.decide(gids[name], "{}", decision=decision, complete=complete)
    stage.databases["left"].prepared.clear()
    engine = await stage.process(retention_s=7200.0)
    assert await engine.purge() == 0
    # The rows are an hour old; gids are of now, so what bounds the search must be later than them.
    engine = await stage.process(retention_s=1.0)
    engine.world.unix_ms = lambda: 2**47  # type: ignore[method-assign]
    assert await engine.purge() == 2
    assert set(stage.databases["home"].tables[DECISION]) == {gids["open"]}


async def test_evidence_that_a_crash_left_goes_only_behind_a_complete_decision() -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process(retention_s=0.0)
    complete, unfinished, unknown = (new_gid(minute * 60_000, bytes([minute] * 10)) for minute in (1, 2, 3))
    for gid in (complete, unfinished, unknown):
        stage.databases["left"].tables[BRANCH][f"{gid} 1"] = True
    stage.decide(complete, '{"1":"left"}', complete=True)
    stage.decide(unfinished, '{"1":"left"}')
    await engine.purge()
    assert set(stage.databases["left"].tables[BRANCH]) == {f"{unfinished} 1", f"{unknown} 1"}


async def test_evidence_that_stays_does_not_hide_what_goes() -> None:
    """Its decision was purged while its node was down, or is of a home that is not known here; more of it than one page."""
    stage = Stage()
    await stage.install()
    engine = await stage.process(retention_s=0.0)
    oldest, *unknown, youngest = (new_gid(minute * 60_000, bytes(10)) for minute in range(BATCH + 3))
    for gid in (oldest, *unknown, youngest):
        stage.databases["left"].tables[BRANCH][f"{gid} 1"] = True
    for gid in (oldest, youngest):
        stage.decide(gid, '{"1":"left"}', complete=True)
    await engine.purge()
    assert set(stage.databases["left"].tables[BRANCH]) == {f"{gid} 1" for gid in unknown}


async def test_evidence_of_what_was_aborted_is_told_to_whoever_reads_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody committed the branch by hand: it is on no list any more, and its decision is not unfinished."""
    stage = Stage()
    await stage.install()
    engine = await stage.process(retention_s=0.0)
    gid = new_gid(60_000, bytes(10))
    stage.databases["left"].tables[BRANCH][f"{gid} 1"] = True
    stage.decide(gid, "{}", decision="aborted")
    await engine.purge()
    assert f"{gid} was aborted, and somebody else committed its branch on 'left'" in caplog.text
    assert f"{gid} 1" in stage.databases["left"].tables[BRANCH]
