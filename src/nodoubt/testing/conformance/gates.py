"""Clauses about home's gate: closed, nobody decides, and everything else goes on; opened or lost, everybody does."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from nodoubt.errors import NodeUnavailable, NodoubtError
from nodoubt.nodes.contract import GATE_S_MAX, Answer, Branch, Ended, Node, Said
from nodoubt.protocol.verdicts import HomeSays
from nodoubt.testing.conformance.harness import (
    HANG_S,
    PATIENCE_S,
    PATIENT,
    Harness,
    check,
    clause,
    equal,
    expect,
    raises,
)

#: How long closing waits in vain, in seconds.
SHORT_S = 0.2
#: More gates than a node may have sessions for.
GATES = 12


class GateClauses:
    """Where ``concurrent`` is not declared, an open branch that may write is the gate: so nobody begins behind a closed one."""

    @clause
    async def test_a_closed_gate_holds_decisions_off(self, h: Harness, node: Node) -> None:
        """No decision lands while the gate is closed, also of a single writer and of the opener's own process; then all do."""
        opener = await h.opened(**PATIENT)
        for decider in (opener, await h.opened(**PATIENT)):
            for participants in ({1: "there"}, {}):
                gid = h.gid()
                decision = await _about_to_decide(h, decider, gid, participants)
                gate = await h.close_gate(opener)
                found: list[object] = []

                async def look_and_reopen(gid: str = gid, gate: Any = gate, found: list[object] = found) -> None:
                    found.extend(await node.decisions([gid]))
                    await gate.reopen()

                answer, waited = await h.beside(decision(), look_and_reopen())
                check(waited, "it decided while the gate was closed")
                equal(found, [], "decisions behind the closed gate")
                expect(answer, Said.YES)
                equal(set(await node.decisions([gid])), {gid}, "decisions after the gate was opened")

    @clause
    async def test_closing_waits_for_who_decides(self, h: Harness, node: Node) -> None:
        """A decision that is in flight is waited for: until it has come to its end, and no longer than was said."""
        branch = await _holding(h, node)
        other = await h.opened()
        await _gives_up(h, other)
        gate, waited = await h.beside(h.close_gate(other), branch.roll_back(prepared=False))
        check(waited, "the gate was closed while somebody decided")
        await gate.reopen()
        await h.commit_row(node)

    @clause
    async def test_closing_shows_what_was_decided(self, h: Harness, node: Node) -> None:
        """What closing waited for is committed, and to be seen, when the gate is closed."""
        branch_id = h.id(branch=0)
        branch = await h.wrote(node, branch_id=branch_id, home=True)
        await h.hold_decision(branch.connection, h.gid())
        other = await h.opened()
        gate, _ = await h.beside(h.close_gate(other), branch.decide({1: "there"}))
        equal(await gate.committed([branch_id.gid]), {branch_id.gid}, "committed")
        equal(await h.read(other), "value", "the committed row")
        await gate.reopen()

    @clause
    async def test_a_closing_that_gave_up_leaves_the_gate_open(self, h: Harness, node: Node) -> None:
        """Who waited in vain holds nobody up, neither beside the one who decides nor after him."""
        branch = await _holding(h, node)
        other = await h.opened()
        await _gives_up(h, other)
        if node.capabilities.concurrent:
            await h.commit_row(other, "beside")
        expect(await branch.decide({}), Said.YES)
        await h.commit_row(other, "after")

    @clause
    async def test_openers_share_a_closing(self, h: Harness, node: Node) -> None:
        """The last one opens the gate. Where one branch, or one opener, has it alone, the second opener waits for the first."""
        other = await h.opened()
        if not node.capabilities.concurrent or node.capabilities.exclusive_gate:
            gate = await h.close_gate(node)
            await _gives_up(h, other)
            await gate.reopen()
            await (await h.close_gate(other)).reopen()
            return
        gid, third = h.gid(), await h.opened(**PATIENT)
        decision = await _about_to_decide(h, third, gid, {1: "there"})
        first, second = await h.close_gate(node), await h.close_gate(other)
        found: list[object] = []

        async def one_after_the_other() -> None:
            await first.reopen()
            await h.world.sleep(HANG_S)
            found.extend(await node.decisions([gid]))
            await second.reopen()

        answer, waited = await h.beside(decision(), one_after_the_other())
        check(waited, "it decided while the gate was closed")
        equal(found, [], "decisions while one opener still held the gate")
        expect(answer, Said.YES)

    @clause
    async def test_a_gate_tells_what_is_prepared_and_committed(self, h: Harness, node: Node) -> None:
        """Committed decisions, complete or not; neither tombstones, nor what is undecided, nor what nobody knows."""
        open_, tombstone, prepared, unknown = h.gid(), h.gid(), h.gid(), h.gid()
        expect(
            await (await h.wrote(node, branch_id=h.id(gid=open_, branch=0), home=True)).decide({1: "there"}), Said.YES
        )
        complete = await h.commit_row(node)
        equal((await node.probe([tombstone]))[tombstone], HomeSays.FRESH, "the probe")
        undecided = []
        if node.capabilities.concurrent:
            await h.prepare(node, h.id(gid=prepared), "prepared")
            undecided.append(await h.wrote(node, "open", branch_id=h.id(branch=0), home=True))
        gate = await h.close_gate(node)
        asked = [open_, complete, tombstone, prepared, unknown]
        equal(await gate.committed(asked), {open_, complete}, "committed")
        equal(await gate.committed(asked[2:]), set(), "committed of the others")
        listed = {branch.id.gid for branch in (await gate.prepared()).ours}
        equal(listed, {prepared} if node.capabilities.concurrent else set(), "prepared branches")
        await gate.reopen()
        equal(set(await node.decisions(asked)), {open_, complete, tombstone}, "decisions after they were asked for")
        for branch in undecided:
            expect(await branch.decide({}), Said.YES)

    @clause
    async def test_all_else_goes_on_behind_a_closed_gate(self, h: Harness, node: Node) -> None:
        """Branches prepare, commit and read, and recovery looks, as if the gate were open."""
        ended = await h.commit_row(node, "before")
        concurrent = node.capabilities.concurrent
        prepared = await h.prepare(node, h.id(), "prepared") if concurrent else None
        writing_id = h.id()
        writing = await h.wrote(node, "writing", branch_id=writing_id) if concurrent else None
        gate = await h.close_gate(await h.opened())
        equal(await h.read(node, "before"), "value", "a committed row")
        equal(set(await node.decisions([ended])), {ended}, "decisions")
        if prepared is not None and writing is not None:
            equal(await prepared.commit(), Ended.DONE, "commit")
            equal(await h.read(node, "prepared"), "value", "the committed row")
            expect(await writing.prepare(), Said.YES)
            equal(await h.listed(node), {(writing_id.gid, writing_id.branch)}, "listed")
            equal(await writing.roll_back(prepared=True), Ended.DONE, "roll back")
        equal(await h.listed(node), set(), "listed")
        await gate.reopen()

    @clause
    async def test_a_lost_gate_is_told(self, h: Harness, node: Node) -> None:
        """With its server the gate is gone: others decide, and reopen says so. Where nothing can be lost, it stays closed."""
        gate = await h.close_gate(node)
        await h.restart()
        other = await h.opened(acquire_timeout_s=SHORT_S)
        try:
            await h.commit_row(other)
        except NodoubtError:
            check(not node.capabilities.concurrent, "a crash left the gate closed")
            await gate.reopen()
        else:
            await raises(NodeUnavailable, gate.reopen(), "reopen a gate through which somebody went")
        await h.commit_row(other, "afterwards")

    @clause
    async def test_a_stopped_opener_loses_the_gate(self, h: Harness, node: Node) -> None:
        """Where a server can tell, nobody waits for longer than GATE_S_MAX, and the opener learns of it when it wakes."""
        decision = await _about_to_decide(h, await h.opened(**PATIENT), h.gid(), {})
        gate = await h.close_gate(node)
        if node.capabilities.concurrent:
            before = h.world.now()
            expect(await decision(), Said.YES)
            check(h.world.now() - before < PATIENCE_S, f"it stayed closed for much longer than {GATE_S_MAX} s")
            await raises(NodeUnavailable, gate.reopen(), "reopen a gate through which somebody went")
        else:
            expect((await h.beside(decision(), gate.reopen()))[0], Said.YES)
        await (await h.close_gate(node)).reopen()

    @clause
    async def test_no_gate_costs_a_session(self, h: Harness, node: Node) -> None:
        """However often it was closed and opened, the next one can close it."""
        for _ in range(GATES):
            await (await h.close_gate(node)).reopen()
        await h.commit_row(node)


async def _about_to_decide(
    h: Harness, node: Node, gid: str, participants: Mapping[int, str]
) -> Callable[[], Coroutine[Any, Any, Answer]]:
    """The last step of a transaction; where an open branch is the gate, all of it."""

    async def begun() -> Branch:
        return await h.wrote(node, gid, branch_id=h.id(gid=gid, branch=0), home=True)

    async def begin_and_decide() -> Answer:
        return await (await begun()).decide(participants)

    if not node.capabilities.concurrent:
        return begin_and_decide
    branch = await begun()
    return lambda: branch.decide(participants)


async def _holding(h: Harness, node: Node) -> Branch:
    """A branch whose decision is in flight."""
    branch = await h.begin(node, h.id(branch=0), home=True)
    await h.hold_decision(branch.connection, h.gid())
    return branch


async def _gives_up(h: Harness, node: Node) -> None:
    """Closing the gate fails soon, and may be tried again."""
    before = h.world.now()
    error = await raises(NodeUnavailable, node.close_gate(SHORT_S), "close the gate while somebody holds it")
    check(getattr(error, "retryable", False), f"it may be tried again, but the error says not: {error!r}")
    check(h.world.now() - before < PATIENCE_S, f"it waited for much longer than {SHORT_S} s")
