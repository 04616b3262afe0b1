"""An operator finishes a prepared branch by plain SQL (C20): harmless if it is what was decided, and named if it is not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pymysql
import pytest

from nodoubt import AsyncTransactionManager
from nodoubt.engine.evidence import gather
from nodoubt.protocol.verdicts import NodeSays
from nodoubt.testing.processes import await_fact
from tests.crash.harness import Victim, check, connected, prepared, query, recovered, settle
from tests.crash.matrix import BY_HAND_RIGHT, BY_HAND_WRONG
from tests.crash.points import Case
from tests.crash.victim import DOMAIN


def finish(url: str, gid: str, *, commit: bool) -> None:
    """What the operator types."""
    verb = "COMMIT" if commit else "ROLLBACK"
    with connected(url) as ask:
        if url.startswith("postgresql"):
            ((name,),) = ask(f"SELECT gid FROM pg_prepared_xacts WHERE gid LIKE '%{gid}%'")
            ask(f"{verb} PREPARED '{name}'")
            return
        # MariaDB lets nobody finish a branch while the session that prepared it lives.
        for (session,) in ask(
            "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        ):
            with suppress(pymysql.OperationalError):
                ask(f"KILL {session}")
        (xid,) = [
            f"X'{data[:size].hex()}',X'{data[size:].hex()}',{form}"
            for form, size, _, data in recovered(ask)
            if gid.encode() in data
        ]

        def is_finished() -> bool:
            with suppress(pymysql.OperationalError):
                ask(f"XA {verb} {xid}")
            return gid not in prepared(url, ask)

        await_fact(is_finished)


def decided(case: Case) -> bool:
    """Whether it is, or will be, decided to commit: a live owner goes on, and a dead one's work is aborted."""
    return case.end == "commit" and (case.c == "C8" or case.settled_by == "itself")


def finished(case: Case) -> str:
    """The node on which the operator acts: the first server behind home."""
    return next(name for name in case.names[1:] if name != "sqlite")


def finish_beneath(case: Case, nodes: dict[str, str], victim: Victim, *, rightly: bool) -> str:
    """Finish a branch by hand while the owner stands still, or when it is dead; then it goes on. Returns the gid."""
    assert victim.hear("struck"), f"{case.point} was never reached: {victim.said}"
    gid: str = victim.said["gid"]
    if case.settled_by == "another":
        assert victim.end() == -9
    finish(nodes[finished(case)], gid, commit=decided(case) == rightly)
    if case.settled_by == "itself":
        victim.go_on()
        assert victim.end() == 0
    return gid


def spec(case: Case, nodes: dict[str, str], work_id: int) -> dict[str, object]:
    """The victim's orders."""
    action = "pause" if case.settled_by == "itself" else "kill"
    return {
        "nodes": nodes,
        "nodes_in_order": case.names,
        "id": work_id,
        "end": case.end,
        "point": case.point,
        "action": action,
    }


@pytest.mark.parametrize("case", BY_HAND_RIGHT.cases, ids=str)
async def test_finished_as_decided(
    case: Case, nodes: dict[str, str], start: Callable[..., Victim], work_id: int
) -> None:
    victim = start(**spec(case, nodes, work_id))
    gid = finish_beneath(case, nodes, victim, rightly=True)
    (report,) = await settle(nodes)
    end = check(nodes, case.names, work_id, gid, victim.said.get("told"))
    assert end == ("committed" if decided(case) else "aborted")
    assert victim.said.get("strays", []) == report.strays == []


@pytest.mark.parametrize("case", BY_HAND_WRONG.cases, ids=str)
async def test_finished_the_other_way(
    case: Case, own_nodes: dict[str, str], start: Callable[..., Victim], work_id: int
) -> None:
    nodes, node = own_nodes, finished(case)
    victim = start(**spec(case, nodes, work_id))
    gid = finish_beneath(case, nodes, victim, rightly=False)
    (report,) = await settle(nodes)
    work = {name: query(nodes[name], f"SELECT id FROM work WHERE id = {work_id}") != [] for name in case.names}
    assert work == {name: decided(case) != (name == node) for name in case.names}, "all others ended as decided"
    if case.settled_by == "itself":
        told = (victim.said["told"], victim.said["strays"])
        assert told == ("committed" if decided(case) else "aborted", [node]), "the caller got a HeuristicOutcome"
    async with AsyncTransactionManager.open(dict(nodes), domain=DOMAIN, settle=False) as tm:
        listed = [(doubt.gid, doubt.node, doubt.case) for doubt in await tm.in_doubt()]
        found = await gather(tm.engine, gid)
    if decided(case):
        assert [(doubt.gid, doubt.node, doubt.case) for doubt in report.strays] == listed
        assert listed == [(gid, node, "rolled-back-by-hand")], "it is kept and shown"
    else:
        # Home's tombstone names no branches: the evidence row proves it to whoever asks about the gid.
        assert [branch.node for branch in found.branches if branch.says is NodeSays.APPLIED] == [node]
