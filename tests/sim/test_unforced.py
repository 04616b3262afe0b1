"""What is read on a MariaDB-like server may not be on its disk: whoever acts on it forces it first."""

from __future__ import annotations

import pytest

from nodoubt.sim.store import Record
from tests.fidelity.simulated import SimulatedSide


@pytest.mark.parametrize(("verb", "words"), [("applied", ["1"]), ("probe", ["1"]), ("reopen-gate", [])])
def test_what_is_acted_on_is_forced(verb: str, words: list[str]) -> None:
    side = SimulatedSide("mariadb")
    store = side.server.store
    gid = side.names.gid("1")
    store.append(Record("commit", writes={("branch", (gid, 1)): True}))
    unforced = len(store.log)
    actor = side.party("a")
    task = side.launch(actor.do(verb, words, {}))
    side.settle({task: actor}, ())
    assert store.forced >= unforced
