"""Clauses about home: the decision row, whose unique key is the only arbiter, and what is kept of it for how long."""

from __future__ import annotations

from nodoubt.errors import NodeUnavailable
from nodoubt.nodes.contract import Node, Said
from nodoubt.protocol.verdicts import HomeSays
from nodoubt.testing.conformance.harness import Harness, check, clause, equal, expect, raises

#: Greater than every gid.
LAST_GID = "7" + "z" * 25
PURGE_MAX = 100
#: An age, in seconds, that every clock can tell from none.
AGE_S = 0.05


class DecisionClauses:
    """Adapters that declare ``home=False`` are not asked for any of this, except that they may never be wrong."""

    @clause
    async def test_decide_commits_work_and_row(self, h: Harness, node: Node) -> None:
        """Yes: work and decision are committed together, and the row names the participants."""
        branch_id = h.id(branch=0)
        branch = await h.wrote(node, branch_id=branch_id, home=True)
        expect(await branch.decide({1: "there", 12: "elsewhere"}), Said.YES)
        row = (await node.decisions([branch_id.gid]))[branch_id.gid]
        equal((row.gid, row.says), (branch_id.gid, HomeSays.COMMITTED), "the decision")
        equal(dict(row.participants), {1: "there", 12: "elsewhere"}, "participants")
        check(0 <= row.age_s < 60, f"a row of now has an age of {row.age_s} s")
        equal(await h.read(node), "value", "the committed row")

    @clause
    async def test_a_decision_survives(self, h: Harness, node: Node) -> None:
        """A decision outlives its process and its server."""
        branch_id = h.id(branch=0)
        branch = await h.wrote(node, branch_id=branch_id, home=True)
        expect(await branch.decide({1: "there"}), Said.YES)
        await h.close_nodes()
        await h.restart()
        other = await h.opened()
        equal(await _probe(other, branch_id.gid), HomeSays.COMMITTED, "probe after a restart")
        equal(await h.read(other), "value", "the committed row")

    @clause
    async def test_a_decision_without_participants_is_complete_at_once(self, h: Harness, node: Node) -> None:
        """Nobody has to finish what nobody took part in."""
        branch_id = h.id(branch=0)
        expect(await (await h.wrote(node, branch_id=branch_id, home=True)).decide({}), Said.YES)
        equal(await _says(node, branch_id.gid), HomeSays.COMPLETE, "the decision")
        equal(list(await node.unfinished(10)), [], "unfinished")

    @clause
    async def test_decide_after_a_tombstone_is_a_conflict(self, h: Harness, node: Node) -> None:
        """A recoverer was first: the decision collides with the tombstone and home's work is undone."""
        branch_id = h.id(branch=0)
        equal(await _probe(node, branch_id.gid), HomeSays.FRESH, "the first probe")
        branch = await h.wrote(node, branch_id=branch_id, home=True)
        expect(await branch.decide({1: "there"}), Said.CONFLICT)
        equal(await _probe(node, branch_id.gid), HomeSays.ABORTED, "the decision")
        equal(await h.read(node), None, "the row")

    @clause
    async def test_decide_after_somebody_elses_probe_in_between_is_a_conflict(self, h: Harness, node: Node) -> None:
        """The tombstone may also come while the branch is open; where only one can write, the probe is busy instead."""
        branch_id = h.id(branch=0)
        branch = await h.wrote(node, branch_id=branch_id, home=True)
        if not node.capabilities.concurrent:
            hasty = await h.opened(lock_timeout_s=0.1)
            equal(await _probe(hasty, branch_id.gid), HomeSays.BUSY, "the probe")
            expect(await branch.decide({1: "there"}), Said.YES)
            equal(await _probe(node, branch_id.gid), HomeSays.COMMITTED, "the probe afterwards")
            return
        equal(await _probe(node, branch_id.gid), HomeSays.FRESH, "the probe")
        expect(await branch.decide({1: "there"}), Said.CONFLICT)
        equal(await _says(node, branch_id.gid), HomeSays.ABORTED, "the decision")
        equal(await h.read(node), None, "the row")

    @clause
    async def test_decide_after_a_failed_statement_is_no(self, h: Harness, node: Node) -> None:
        """A branch in which a statement failed decides nothing."""
        branch_id = h.id(branch=0)
        branch = await h.wrote(node, branch_id=branch_id, home=True)
        await raises(Exception, h.fail(branch.connection), "a statement that fails")
        expect(await branch.decide({1: "there"}), Said.NO)
        equal(await _probe(node, branch_id.gid), HomeSays.FRESH, "probe after a no")
        equal(await h.read(node), None, "the row")

    @clause
    async def test_decide_on_a_dead_session_decides_nothing_yet(self, h: Harness, node: Node) -> None:
        """When the session died before, there is no yes, and a probe finds nothing."""
        branch_id = h.id(branch=0)
        branch = await h.wrote(node, branch_id=branch_id, home=True)
        await h.cut(branch)
        expect(await branch.decide({1: "there"}), Said.NO, Said.UNKNOWN)
        equal(await _probe_through(h, node, branch_id.gid), HomeSays.FRESH, "the probe")
        equal(await h.read(node), None, "the row")

    @clause
    async def test_a_decision_without_answer_is_what_home_says(self, h: Harness, node: Node) -> None:
        """The decision is on its way when its session is cut: whatever was answered, work and row agree."""
        branch_id = h.id(branch=0)
        branch = await h.wrote(node, branch_id=branch_id, home=True)
        answer = await h.hang(branch, lambda: branch.decide({1: "there"}))
        says = await _probe_through(h, node, branch_id.gid)
        check(says in (HomeSays.COMMITTED, HomeSays.FRESH), f"home says {says!r}")
        check(answer.said is not Said.YES or says is HomeSays.COMMITTED, f"it had said yes, but home says {says!r}")
        check(answer.said is not Said.NO or says is HomeSays.FRESH, f"it had said no, but home says {says!r}")
        equal(await h.read(node), "value" if says is HomeSays.COMMITTED else None, "the row")

    @clause
    async def test_a_probe_inserts_one_tombstone(self, h: Harness, node: Node) -> None:
        """Fresh once, aborted ever after, whoever asks."""
        gid = h.gid()
        other = await h.opened()
        equal(await _probe(node, gid), HomeSays.FRESH, "the first probe")
        equal(await _probe(other, gid), HomeSays.ABORTED, "the second probe")
        equal(await _probe(node, gid), HomeSays.ABORTED, "the third probe")
        equal(await _says(other, gid), HomeSays.ABORTED, "the decision")

    @clause
    async def test_a_probe_that_comes_too_late_inserts_nothing(self, h: Harness, node: Node) -> None:
        """Who has slept since he looked may ask about what was forgotten meanwhile: that is no tombstone's time."""
        gid = h.gid()
        await raises(NodeUnavailable, node.probe([gid], lambda: False), "a probe that comes too late")
        equal(dict(await node.decisions([gid])), {}, "decisions")
        equal(await _probe(node, gid), HomeSays.FRESH, "a probe in time")

    @clause
    async def test_a_probe_reads_a_decision(self, h: Harness, node: Node) -> None:
        """Probing changes nothing that was decided; one probe answers for many gids."""
        open_, complete, fresh = h.gid(), h.gid(), h.gid()
        for gid in (open_, complete):
            expect(await (await h.begin(node, h.id(gid=gid, branch=0), home=True)).decide({1: "there"}), Said.YES)
        await node.complete([complete])
        found = dict(await node.probe([open_, complete, fresh]))
        expected = {open_: HomeSays.COMMITTED, complete: HomeSays.COMPLETE, fresh: HomeSays.FRESH}
        equal(found, expected, "probe")

    @clause
    async def test_a_key_in_use_is_busy(self, h: Harness, node: Node) -> None:
        """While a committer holds the key its probe is busy, and the others of the same batch are answered."""
        other = await h.opened(lock_timeout_s=0.1)
        held, free = h.gid(), h.gid()
        branch = await h.begin(node, h.id(gid=held, branch=0), home=True)
        await h.hold_decision(branch.connection, held)
        found = dict(await other.probe([held, free]))
        equal(found[held], HomeSays.BUSY, "probe of a held key")
        check(
            found[free] is HomeSays.FRESH or not node.capabilities.concurrent,
            f"probe of a free key: found {found[free]!r}",
        )
        await branch.roll_back(prepared=False)
        equal(await _probe(other, held), HomeSays.FRESH, "probe after the committer gave up")

    @clause
    async def test_decisions_are_read_without_being_made(self, h: Harness, node: Node) -> None:
        """Looking inserts nothing."""
        gid = h.gid()
        equal(dict(await node.decisions([gid])), {}, "decisions")
        equal(await _probe(node, gid), HomeSays.FRESH, "a probe afterwards")

    @clause
    async def test_unfinished_are_the_oldest_incomplete_commits(self, h: Harness, node: Node) -> None:
        """Neither tombstones nor complete rows are unfinished; the oldest come first, and no more than asked for."""
        gids = [h.gid() for _ in range(4)]
        for gid in reversed(gids):
            expect(await (await h.begin(node, h.id(gid=gid, branch=0), home=True)).decide({1: "there"}), Said.YES)
        await _probe(node, h.gid())
        await node.complete([gids[1]])
        rows = await node.unfinished(10)
        equal([row.gid for row in rows], [gids[0], gids[2], gids[3]], "unfinished")
        equal([dict(row.participants) for row in rows], [{1: "there"}] * 3, "participants")
        equal([row.gid for row in await node.unfinished(2)], [gids[0], gids[2]], "the two oldest")

    @clause
    async def test_complete_is_for_ever(self, h: Harness, node: Node) -> None:
        """Marked complete, once or twice, the row says so to everybody; unknown gids are passed over."""
        gid = h.gid()
        expect(await (await h.begin(node, h.id(gid=gid, branch=0), home=True)).decide({1: "there"}), Said.YES)
        await node.complete([gid])
        await node.complete([gid, h.gid()])
        equal(await _says(await h.opened(), gid), HomeSays.COMPLETE, "the decision")
        equal(await _probe(node, gid), HomeSays.COMPLETE, "the probe")
        equal(list(await node.unfinished(10)), [], "unfinished")

    @clause
    async def test_a_decision_is_young_again_when_it_is_complete(self, h: Harness, node: Node) -> None:
        """The retention begins there: until then somebody may have seen a branch prepared. Marked once more it goes on."""
        complete, open_ = h.gid(), h.gid()
        for gid in (complete, open_):
            expect(await (await h.begin(node, h.id(gid=gid, branch=0), home=True)).decide({1: "there"}), Said.YES)

        async def ages() -> tuple[float, float]:
            rows = await node.decisions([complete, open_])
            return rows[complete].age_s, rows[open_].age_s

        for _ in range(2):
            before = await h.until(ages, lambda found: found[0] > 2 * AGE_S)
            await node.complete([complete])
        after = await ages()
        check(
            before[1] - before[0] > AGE_S, f"a row that was made complete kept its age: {before[0]} s of {before[1]} s"
        )
        check(after[0] >= before[0], f"a row that was complete became younger: {before[0]} s, then {after[0]} s")

    @clause
    async def test_purge_keeps_what_is_young_or_incomplete(self, h: Harness, node: Node) -> None:
        """Within the retention nothing goes; after it complete rows and tombstones go, an open decision never."""
        complete, open_, tombstone = h.gid(), h.gid(), h.gid()
        for gid in (complete, open_):
            expect(await (await h.begin(node, h.id(gid=gid, branch=0), home=True)).decide({1: "there"}), Said.YES)
        await node.complete([complete])
        await _probe(node, tombstone)
        equal(await node.purge(LAST_GID, 3600.0, PURGE_MAX), 0, "purged within the retention")
        equal(await node.purge(complete, -60.0, PURGE_MAX), 0, "purged below the smallest gid")
        equal(await node.purge(LAST_GID, -60.0, 1), 1, "purged with a limit of one")
        equal(await node.purge(LAST_GID, -60.0, PURGE_MAX), 1, "purged after the retention")
        equal(set(await node.decisions([complete, open_, tombstone])), {open_}, "decisions that are left")

    @clause
    async def test_a_person_can_decide(self, h: Harness, node: Node) -> None:
        """Resolving inserts the decision that was ordered, with its reason, for everybody to see."""
        for commit, says in ((True, HomeSays.COMMITTED), (False, HomeSays.ABORTED)):
            gid = h.gid()
            equal(await node.resolve(gid, commit=commit, reason="the disk is gone"), says, "resolve")
            row = (await node.decisions([gid]))[gid]
            equal((row.says, row.reason), (says, "the disk is gone"), "the decision")
            equal(await _probe(node, gid), says, "the probe")

    @clause
    async def test_a_person_overrules_nothing(self, h: Harness, node: Node) -> None:
        """A standing decision is returned as it is, whatever was ordered."""
        gid, tombstone = h.gid(), h.gid()
        expect(await (await h.begin(node, h.id(gid=gid, branch=0), home=True)).decide({1: "there"}), Said.YES)
        await _probe(node, tombstone)
        equal(await node.resolve(gid, commit=False, reason="impatience"), HomeSays.COMMITTED, "resolve a commit")
        equal(await node.resolve(tombstone, commit=True, reason="hope"), HomeSays.ABORTED, "resolve a tombstone")
        equal(await _says(node, gid), HomeSays.COMMITTED, "the decision")


async def _probe(node: Node, gid: str) -> HomeSays:
    return (await node.probe([gid]))[gid]


async def _probe_through(h: Harness, node: Node, gid: str) -> HomeSays:
    """Probe until a session that just died no longer holds the key."""
    return await h.until(lambda: _probe(node, gid), lambda says: says is not HomeSays.BUSY)


async def _says(node: Node, gid: str) -> HomeSays:
    return (await node.decisions([gid]))[gid].says
