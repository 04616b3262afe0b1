"""Clauses about a branch's own steps: prepare, release, commit, roll back."""

from __future__ import annotations

import threading

from nodoubt.nodes.contract import Branch, Ended, Node, Said
from nodoubt.protocol.ids import BranchId
from nodoubt.testing.conformance.harness import Harness, check, clause, equal, expect, raises


class VoteClauses:
    """Yes survives, no is final, unknown is told as unknown."""

    @clause
    async def test_yes_survives(self, h: Harness, node: Node) -> None:
        """A yes outlives its process and its server, and anybody can commit it."""
        branch_id = h.id()
        await h.prepare(node, branch_id)
        await h.close_nodes()
        await h.restart()
        other = await h.opened()
        equal(await h.listed(other), {(branch_id.gid, branch_id.branch)}, "listed after a restart")
        equal(await h.settled(other, branch_id, commit=True), Ended.DONE, "finish")
        equal(await h.read(other), "value", "the committed row")

    @clause
    async def test_a_prepared_branch_commits(self, h: Harness, node: Node) -> None:
        """Prepare, then commit: done, the work is there with its evidence, and nothing stays prepared."""
        branch_id = h.id()
        branch = await h.prepare(node, branch_id)
        equal(await branch.commit(), Ended.DONE, "commit")
        equal(await h.read(node), "value", "the committed row")
        equal(await node.applied([(branch_id.gid, branch_id.branch)]), {(branch_id.gid, branch_id.branch)}, "evidence")
        equal(await h.listed(node), set(), "listed")

    @clause
    async def test_a_prepared_branch_rolls_back(self, h: Harness, node: Node) -> None:
        """Prepare, then roll back: done, neither work nor evidence is there, and nothing stays prepared."""
        branch_id = h.id()
        branch = await h.prepare(node, branch_id)
        equal(await branch.roll_back(prepared=True), Ended.DONE, "roll back")
        equal(await h.read(node), None, "the row")
        equal(await node.applied([(branch_id.gid, branch_id.branch)]), set(), "evidence")
        equal(await h.listed(node), set(), "listed")

    @clause
    async def test_an_open_branch_rolls_back(self, h: Harness, node: Node) -> None:
        """A branch that was never prepared is always rolled back at once."""
        branch = await h.wrote(node)
        equal(await branch.roll_back(prepared=False), Ended.DONE, "roll back")
        equal(await h.read(node), None, "the row")

    @clause
    async def test_prepare_after_a_failed_statement_is_no(self, h: Harness, node: Node) -> None:
        """A branch in which a statement failed votes no, and the no is final."""
        branch_id = h.id()
        branch = await h.wrote(node, branch_id=branch_id)
        await raises(Exception, h.fail(branch.connection), "a statement that fails")
        expect(await branch.prepare(), Said.NO)
        equal(await h.listed(node), set(), "listed after a no")
        equal(await h.settled(node, branch_id, commit=True), Ended.ABSENT, "finish after a no")
        equal(await h.read(node), None, "the row")

    @clause
    async def test_a_savepoint_undoes_the_failure(self, h: Harness, node: Node) -> None:
        """Rolled back to a savepoint from before the failure, the branch votes yes, with what was written before it."""
        branch = await h.begin(node)
        await h.put(branch.connection, "before", "value")
        await h.savepoint(branch.connection, "here")
        await h.put(branch.connection, "after", "value")
        await raises(Exception, h.fail(branch.connection), "a statement that fails")
        await h.rollback_to(branch.connection, "here")
        expect(await branch.prepare(), Said.YES)
        equal(await branch.commit(), Ended.DONE, "commit")
        equal((await h.read(node, "before"), await h.read(node, "after")), ("value", None), "the rows")

    @clause
    async def test_a_failure_before_the_savepoint_stays(self, h: Harness, node: Node) -> None:
        """Rolling back to a savepoint that was set after the failure heals nothing."""
        branch = await h.wrote(node)
        await raises(Exception, h.fail(branch.connection), "a statement that fails")
        # A database that dooms the whole transaction refuses the savepoint too; one that does not lets it be set.
        try:
            await h.savepoint(branch.connection, "late")
            await h.rollback_to(branch.connection, "late")
        except Exception as error:
            check(str(error), "a refusal without a word")
        expect(await branch.prepare(), Said.NO)
        equal(await h.read(node), None, "the row")

    @clause
    async def test_unknown_is_told_as_unknown(self, h: Harness, node: Node) -> None:
        """When the session dies before the vote, there is no yes; rolling back afterwards leaves nothing."""
        branch_id = h.id()
        branch = await h.wrote(node, branch_id=branch_id)
        await h.cut(branch)
        answer = await branch.prepare()
        expect(answer, Said.NO, Said.UNKNOWN)
        ended = await branch.roll_back(prepared=answer.said is Said.UNKNOWN)
        if ended is Ended.OWED:
            ended = await h.settled(node, branch_id, commit=False)
        check(ended in (Ended.DONE, Ended.ABSENT), f"rolled back, but it says {ended!r}")
        equal(await h.listed(node), set(), "listed")
        equal(await h.read(node), None, "the row")

    @clause
    async def test_a_vote_without_answer_is_unknown(self, h: Harness, node: Node) -> None:
        """The prepare is on its way when its session is cut: not a no, because it may arrive; but rolled back is for ever."""
        branch_id = h.id()
        branch = await h.wrote(node, branch_id=branch_id)
        answer = await h.hang(branch, branch.prepare)
        check(answer.said is not Said.NO or not await h.listed(node), "it had said no, and is listed")
        await _ends_truthfully(h, node, branch, branch_id, answer.said)
        equal(await h.listed(node), set(), "listed")
        equal(await h.read(node), None, "the row")

    @clause
    async def test_abandon_during_the_vote_is_truthful(self, h: Harness, node: Node) -> None:
        """Abandoned by another thread at any moment: yes means prepared, no means never, and unknown can be finished."""
        for _ in range(8):
            branch_id = h.id()
            branch = await h.wrote(node, branch_id=branch_id)
            thread = threading.Thread(target=branch.abandon)
            thread.start()
            answer = await branch.prepare()
            thread.join()
            await _ends_truthfully(h, node, branch, branch_id, answer.said)
            equal(await h.listed(node), set(), "listed")
            equal(await h.read(node), None, "the row")

    @clause
    async def test_after_abandon_there_is_no_yes(self, h: Harness, node: Node) -> None:
        """Every step after abandon answers no or unknown, and soon."""
        branch = await h.wrote(node)
        branch.abandon()
        expect(await branch.prepare(), Said.NO, Said.UNKNOWN)
        branch.abandon()
        home = await h.wrote(node, branch_id=h.id(branch=0), home=True)
        home.abandon()
        expect(await home.decide({}), Said.NO, Said.UNKNOWN)
        reader = await h.begin(node, read_only=True)
        reader.abandon()
        expect(await reader.release(), Said.NO)

    @clause
    async def test_commit_after_the_session_died(self, h: Harness, node: Node) -> None:
        """A branch that said yes is committed although its session is gone."""
        branch_id = h.id()
        branch = await h.prepare(node, branch_id)
        await h.cut(branch)
        ended = await branch.commit()
        if ended is Ended.OWED:
            ended = await h.settled(node, branch_id, commit=True)
        check(ended in (Ended.DONE, Ended.APPLIED), f"committed, but it says {ended!r}")
        equal(await h.read(node), "value", "the committed row")

    @clause
    async def test_release_after_a_failed_statement_is_no(self, h: Harness, node: Node) -> None:
        """A reader in which a statement failed, whose locks may be gone, is no part of a transaction that commits."""
        branch = await h.begin(node, read_only=True)
        await raises(Exception, h.fail(branch.connection), "a statement that fails")
        expect(await branch.release(), Said.NO)

    @clause
    async def test_release_ends_a_reader(self, h: Harness, node: Node) -> None:
        """A read-only branch says yes once, and leaves neither prepared work nor evidence nor a decision."""
        branch_id = h.id()
        branch = await h.begin(node, branch_id, read_only=True)
        equal(await h.get(branch.connection, "key"), None, "the row")
        expect(await branch.release(), Said.YES)
        equal(await h.listed(node), set(), "listed")
        equal(await node.applied([(branch_id.gid, branch_id.branch)]), set(), "evidence")
        equal(dict(await node.decisions([branch_id.gid])), {}, "decisions")

    @clause
    async def test_a_reader_never_commits_a_write(self, h: Harness, node: Node) -> None:
        """A write in a read-only branch is refused, or the branch does not say yes: it never becomes visible."""
        branch = await h.begin(node, read_only=True)
        try:
            await h.put(branch.connection, "key", "value")
        except Exception as error:
            check(str(error), "a refusal without a word")
        await branch.release()
        equal(await h.read(node), None, "the row")

    @clause
    async def test_prepared_work_is_not_visible(self, h: Harness, node: Node) -> None:
        """Nobody reads a prepared branch's writes before its commit."""
        if node.capabilities.concurrent:
            branch = await h.prepare(node, h.id())
            equal(await h.read(await h.opened()), None, "the row of a prepared branch")
            equal(await branch.commit(), Ended.DONE, "commit")
        else:
            branch = await h.prepare(node, h.id())
            equal(await branch.roll_back(prepared=True), Ended.DONE, "roll back")
            equal(await h.read(node), None, "the row")

    @clause
    async def test_locks_end_with_the_branch(self, h: Harness, node: Node) -> None:
        """However a branch ends, the next one can write the same row."""
        for commit in (True, False):
            branch = await h.prepare(node, h.id())
            equal(await (branch.commit() if commit else branch.roll_back(prepared=True)), Ended.DONE, "end")
        last = await h.wrote(node)
        await last.roll_back(prepared=False)


async def _ends_truthfully(h: Harness, node: Node, branch: Branch, branch_id: BranchId, said: Said) -> None:
    """Roll back as the engine does after this answer, and hold the answer against what was found."""
    if said is Said.YES:
        check((branch_id.gid, branch_id.branch) in await h.listed(node), "it had said yes, and is not listed")
    ended = await branch.roll_back(prepared=said is not Said.NO)
    if ended is Ended.OWED:
        ended = await h.settled(node, branch_id, commit=False)
    # What was rolled back on a session that was cut before it could say so is absent to the next.
    expected = {Ended.DONE} if said is Said.NO else {Ended.DONE, Ended.ABSENT}
    check(ended in expected, f"it had said {said}, but rolling back found {ended!r}")
