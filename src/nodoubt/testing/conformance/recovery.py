"""Clauses about recovery: what others left is listed, finished and told apart by evidence, from any process."""

from __future__ import annotations

from nodoubt.nodes.contract import Ended, Node
from nodoubt.protocol.ids import BRANCHES_MAX
from nodoubt.testing.conformance.harness import Harness, as_set, check, clause, equal


class RecoveryClauses:
    """Recovery calls come from node objects that never saw the branch."""

    @clause
    async def test_anybody_can_commit_a_branch(self, h: Harness, node: Node) -> None:
        """Finished by another node object: done once, applied ever after."""
        branch_id = h.id()
        await h.prepare(node, branch_id)
        await h.close_nodes()
        other = await h.opened()
        equal(await h.settled(other, branch_id, commit=True), Ended.DONE, "finish")
        equal(await other.finish(branch_id, commit=True), Ended.APPLIED, "finish again")
        equal(await other.finish(branch_id, commit=False), Ended.APPLIED, "roll back what is committed")
        equal(await h.read(other), "value", "the committed row")

    @clause
    async def test_anybody_can_roll_a_branch_back(self, h: Harness, node: Node) -> None:
        """Finished by another node object: done once, absent ever after."""
        branch_id = h.id()
        await h.prepare(node, branch_id)
        await h.close_nodes()
        other = await h.opened()
        equal(await h.settled(other, branch_id, commit=False), Ended.DONE, "finish")
        equal(await other.finish(branch_id, commit=False), Ended.ABSENT, "finish again")
        equal(await other.finish(branch_id, commit=True), Ended.ABSENT, "commit what is rolled back")
        equal(await h.read(other), None, "the row")

    @clause
    async def test_a_branch_that_never_was_is_absent(self, h: Harness, node: Node) -> None:
        """Finishing an unknown branch does nothing and says so, both ways."""
        await h.prepare(node, h.id())
        await h.close_nodes()
        other = await h.opened()
        for commit in (True, False):
            equal(await other.finish(h.id(), commit=commit), Ended.ABSENT, "finish")
        equal(len((await other.prepared()).ours), 1, "branches that are prepared still")

    @clause
    async def test_a_detached_branch_needs_no_patience(self, h: Harness, node: Node) -> None:
        """While the owner lives: finished at once if ``detached`` is declared; otherwise owed until its session is gone."""
        branch_id = h.id()
        branch = await h.prepare(node, branch_id)
        other = await h.opened()
        (found,) = (await other.prepared()).ours
        ended = await other.finish(found.id, commit=True)
        if node.capabilities.detached:
            equal(ended, Ended.DONE, "finish beside a living owner")
        else:
            check(ended in (Ended.DONE, Ended.OWED), f"finish beside a living owner: {ended!r}")
            branch.abandon()
            check(
                await h.settled(other, branch_id, commit=True) in (Ended.DONE, Ended.APPLIED), "finish after the owner"
            )
        late = await branch.commit()
        if late is Ended.OWED:
            late = await h.settled(node, branch_id, commit=True)
        equal(late, Ended.APPLIED, "the owner's own commit afterwards")
        equal(await h.read(node), "value", "the committed row")

    @clause
    async def test_the_list_shows_exactly_what_is_prepared(self, h: Harness, node: Node) -> None:
        """Each prepared branch once, with its own id and a sane age; nothing that is open or ended."""
        last = BRANCHES_MAX - 1
        ids = [
            h.id(branch=number, home="elsewhere") for number in ((1, last) if node.capabilities.concurrent else (last,))
        ]
        ended = await h.prepare(node, h.id(), "ended")
        await ended.commit()
        branches = [await h.prepare(node, branch_id, f"key{branch_id.branch}") for branch_id in ids]
        unprepared = await h.wrote(node, "open") if node.capabilities.concurrent else None
        listing = await (await h.opened()).prepared()
        found = as_set([(one.id.domain, one.id.gid, one.id.branch, one.id.home) for one in listing.ours])
        equal(
            found, {(branch_id.domain, branch_id.gid, branch_id.branch, branch_id.home) for branch_id in ids}, "listed"
        )
        check(all(-1 <= one.age_s < 60 for one in listing.ours), f"branches of now: {listing.ours}")
        equal(listing.foreign, 0, "foreign branches")
        for branch in branches:
            equal(await branch.roll_back(prepared=True), Ended.DONE, "roll back")
        if unprepared is not None:
            await unprepared.roll_back(prepared=False)
        equal(await h.listed(node), set(), "listed afterwards")

    @clause
    async def test_foreign_branches_are_counted_and_left_alone(self, h: Harness, node: Node) -> None:
        """Another domain's branch is not ours to see, only to count."""
        theirs = h.node(domain="stranger", pool_size=2)
        branch = await h.prepare(theirs, h.id(domain="stranger"))
        listing = await node.prepared()
        equal((len(listing.ours), listing.foreign), (0, 1), "ours and foreign")
        equal(await branch.roll_back(prepared=True), Ended.DONE, "their own roll back")
        await theirs.close()

    @clause
    async def test_evidence_is_of_the_branches_asked_for(self, h: Harness, node: Node) -> None:
        """Evidence is committed with the branch, told for exactly the pairs asked for, and gone after it was dropped."""
        kept, dropped, undone = h.id(branch=1), h.id(branch=2), h.id(branch=3)
        for branch_id in (kept, dropped, undone):
            branch = await h.prepare(node, branch_id, f"key{branch_id.branch}")
            await (branch.roll_back(prepared=True) if branch_id is undone else branch.commit())
        pairs = [(branch_id.gid, branch_id.branch) for branch_id in (kept, dropped, undone)]
        asked = [*pairs, (kept.gid, 2), (h.gid(), 1)]
        equal(await node.applied(asked), set(pairs[:2]), "evidence")
        equal(await node.applied(pairs[1:2]), set(pairs[1:2]), "evidence of one")
        await node.drop_evidence([dropped.gid])
        await node.drop_evidence([dropped.gid, h.gid()])
        equal(await (await h.opened()).applied(asked), set(pairs[:1]), "evidence after some was dropped")

    @clause
    async def test_old_evidence_is_told_in_pages(self, h: Harness, node: Node) -> None:
        """Youngest first, so that the last gid of a page leads to the next one, whatever stays of the first."""
        ids = [h.id() for _ in range(3)]
        for number, branch_id in enumerate(ids):
            await (await h.prepare(node, branch_id, f"key{number}")).commit()
        oldest, middle, youngest = (branch_id.gid for branch_id in ids)
        equal(list(await node.old_evidence(h.gid(), 2)), [youngest, middle], "the first page")
        equal(list(await node.old_evidence(middle, 2)), [oldest], "the next page")
        equal(list(await node.old_evidence(oldest, 2)), [], "the page behind the last one")
