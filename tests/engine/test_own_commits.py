"""A manager never lets a transaction miss what it told a caller is committed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nodoubt.engine.engine import Engine
from nodoubt.engine.work import Work
from nodoubt.errors import NodeUnavailable
from nodoubt.nodes.memory_calls import Fate
from tests.engine.stage import Stage, Trouble, looking, seen, told

OWN: list[Callable[[Engine], Work]] = [
    lambda engine: engine.begin(),
    lambda engine: engine.begin(isolation="serializable"),
]


@pytest.mark.parametrize("begin", OWN, ids=["atomic", "serializable"])
async def test_what_a_caller_was_told_is_never_missed(begin: Callable[[Engine], Work]) -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    work = await stage.write(engine)
    stage.trouble(*(Trouble(node="left", call="finish", fate=Fate.REFUSED) for _ in range(2)))
    assert await told(work) == "committed"
    assert work.outcome.pending == ("left",)
    assert stage.prepared().keys() == {"left"}
    following = begin(engine)
    assert await (await following.on("left", read_only=True)).get("fact", "key") == work.gid
    assert await told(following) == "committed"


async def test_what_cannot_be_shown_yet_is_an_error() -> None:
    stage = Stage()
    await stage.install()
    engine = await stage.process()
    work = await stage.write(engine)
    stage.trouble(*(Trouble(node="left", call="finish", fate=Fate.REFUSED) for _ in range(3)))
    assert await told(work) == "committed"
    following = engine.begin()
    with pytest.raises(NodeUnavailable, match=f"does not show transaction {work.gid} yet") as caught:
        await following.on("left")
    assert caught.value.retryable
    assert await told(following) == "NodeUnavailable"
    assert (await engine.settle()).committed == 1
    assert not engine.left


async def test_another_process_knows_nothing_of_what_ours_was_told() -> None:
    """The promise is a manager's; whoever wants it of all opens a snapshot."""
    stage = Stage()
    await stage.install()
    work = await stage.write(await stage.process())
    stage.trouble(*(Trouble(node="left", call="finish", fate=Fate.REFUSED) for _ in range(2)))
    assert await told(work) == "committed"
    other = await stage.process()
    plain = other.begin()
    assert await (await plain.on("left", read_only=True)).get("fact", "key") is None
    assert await seen(await looking(other)) == {work.gid}
