"""The network loses, halves, doubles, stalls and delays a request or its answer (C18).

The deadline ends what stalls (C21), a settler meets an owner that is alive and waits (C15), and the waiting task is
cancelled (C22).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from nodoubt import AsyncTransactionManager, Outcome
from nodoubt.engine.asynchronous import AsyncTransaction
from nodoubt.testing.proxy import Proxy
from nodoubt.testing.proxy_faults import Arrives, Fault, Schedule, Statement, Then
from tests.crash.harness import Victim, check, impatient, purge, settle
from tests.crash.matrix import CANCELLED, DELAYED, HALF_OPEN, REPLY_LOST, REQUEST_LOST, SLOW_OWNER
from tests.crash.points import Case
from tests.crash.victim import DOMAIN, attempt

#: Deadlines of what will never be answered. What is answered takes some 20 ms; a false alarm would abort, and be seen.
STALL_S = 0.7

Nodes = dict[str, str]


def expected(case: Case) -> str:
    """How it ends when nobody but the owner and the settler after him is at work."""
    decided = case.c in ("C7", "C8", "C9", "C10", "C11")
    return "committed" if case.end == "commit" and decided else "aborted"


@contextmanager
def network(nodes: Nodes, case: Case) -> Iterator[tuple[Proxy, Nodes]]:
    """The nodes as the owner sees them: one of them through a proxy that does what the case says."""
    statement, number = case.point.split()
    arrives, then = case.variant.split()
    fault = Fault(statement=Statement[statement], arrives=Arrives[arrives], then=Then[then])
    name = case.names[int(number)]
    with Proxy(nodes[name], Schedule((fault,))) as proxy:
        yield proxy, nodes | {name: proxy.url}


async def finish(nodes: Nodes, case: Case) -> None:
    """Settle; where the decision was marked complete and nobody heard of it, evidence is the next purge's."""
    await settle(nodes)
    if case.point == "COMPLETE 0":
        await purge(nodes)


class Owner:
    """A live owner in this process, on nodes of its own."""

    def __init__(self, nodes: Nodes, case: Case, identifier: int, *, timeout_s: float = 30) -> None:
        self.tm = AsyncTransactionManager.open(dict(nodes), domain=DOMAIN, settle=False)
        self._case = case
        self._identifier = identifier
        self._timeout_s = timeout_s
        self._seen: list[str] = []
        self.hangs = asyncio.Event()
        self.tx: AsyncTransaction

    async def run(self) -> Outcome:
        names, end = self._case.names, self._case.end
        return await attempt(
            self.tm, names, end, self._identifier, begun=self._begun, reach=self._reach, timeout_s=self._timeout_s
        )

    def _begun(self, tx: AsyncTransaction) -> None:
        self.tx = tx

    async def _reach(self, moment: str) -> None:
        self._seen.append(moment)
        if self._case.variant == "HANG" and f"{moment} {self._seen.count(moment)}" == self._case.point:
            self.hangs.set()
            await asyncio.Event().wait()


@pytest.mark.parametrize("case", [*REQUEST_LOST.cases, *REPLY_LOST.cases], ids=str)
async def test_lost(case: Case, nodes: Nodes, work_id: int) -> None:
    with network(nodes, case) as (proxy, seen):
        owner = Owner(seen, case, work_id)
        async with owner.tm:
            outcome = await owner.run()
        proxy.wait()
    await finish(nodes, case)
    assert check(nodes, case.names, work_id, owner.tx.gid, outcome.state) == expected(case)
    assert outcome.state != "unknown" or case.point == "PROBE 0", "home could be asked"


@pytest.mark.parametrize("case", HALF_OPEN.cases, ids=str)
async def test_half_open(case: Case, nodes: Nodes, work_id: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodoubt.engine.work.PATIENCE_S", STALL_S)
    monkeypatch.setattr("nodoubt.nodes.sql.SERVICE_S_MAX", STALL_S)
    if case.variant == "HANG":
        owner = Owner(nodes, case, work_id, timeout_s=STALL_S)
        async with owner.tm:
            outcome = await owner.run()
    else:
        with network(nodes, case) as (proxy, seen):
            owner = Owner(seen, case, work_id, timeout_s=STALL_S)
            async with owner.tm:
                outcome = await owner.run()
            proxy.wait()
            await settle(nodes)
    await finish(nodes, case)
    assert check(nodes, case.names, work_id, owner.tx.gid, outcome.state) == expected(case)


@pytest.mark.parametrize("case", DELAYED.cases, ids=str)
async def test_delayed_past_the_settler(case: Case, nodes: Nodes, start: Callable[..., Victim], work_id: int) -> None:
    """The sender is dead, and everything is settled, when its request arrives."""
    with network(nodes, case) as (proxy, seen):
        victim = start(nodes=seen, nodes_in_order=case.names, id=work_id, end=case.end)
        await asyncio.to_thread(proxy.wait)
        victim.process.kill()
        assert victim.end() == -9
        await settle(nodes)
        proxy.release()
        await asyncio.to_thread(proxy.wait_idle)
    await settle(nodes)
    assert check(nodes, case.names, work_id, victim.said["gid"], told=None) == expected(case)


@pytest.mark.parametrize("case", SLOW_OWNER.cases, ids=str)
async def test_settled_beneath_a_live_owner(case: Case, nodes: Nodes, work_id: int) -> None:
    with network(nodes, case) as (proxy, seen):
        owner = Owner(seen, case, work_id)
        async with owner.tm:
            work = asyncio.create_task(owner.run())
            await asyncio.to_thread(proxy.wait)
            if case.settled_by == "itself":
                report = await owner.tm.settle(grace_s=0)
                assert (report.settled, report.waiting, report.strays) == (0, [], []), "live work is left alone"
            else:
                async with impatient(nodes) as tm:
                    await tm.settle(grace_s=0)
            proxy.release()
            outcome = await work
    await settle(nodes)
    end = check(nodes, case.names, work_id, owner.tx.gid, outcome.state)
    if case.settled_by == "itself":
        assert end == ("committed" if case.end == "commit" else "aborted")
    elif case.c not in ("C3", "C5") and case.names[0] != "sqlite":
        # Nobody can take a SQLite database from an owner that is alive; what is not prepared yet is not found.
        assert end == expected(case)


@pytest.mark.parametrize("case", CANCELLED.cases, ids=str)
async def test_cancelled(case: Case, nodes: Nodes, work_id: int) -> None:
    """Before the block is left it aborts; after that it goes on to its end, and the cancellation follows."""
    if case.variant == "HANG":
        owner = Owner(nodes, case, work_id)
        async with owner.tm:
            work = asyncio.create_task(owner.run())
            await owner.hangs.wait()
            work.cancel()
            await asyncio.wait({work})
    else:
        with network(nodes, case) as (proxy, seen):
            owner = Owner(seen, case, work_id)
            async with owner.tm:
                work = asyncio.create_task(owner.run())
                await asyncio.to_thread(proxy.wait)
                work.cancel()
                proxy.release()
                await asyncio.wait({work})
    assert work.cancelled()
    await settle(nodes)
    goes_on = case.end == "commit" and case.variant != "HANG"
    assert check(nodes, case.names, work_id, owner.tx.gid, owner.tx.outcome.state) == (
        "committed" if goes_on else "aborted"
    )
