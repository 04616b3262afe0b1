"""Clauses about what the user holds: guarded, bounded by the block, and drawn from a bounded pool."""

from __future__ import annotations

from nodoubt.errors import GuardError, NodeUnavailable
from nodoubt.nodes.contract import Node, Said
from nodoubt.testing.conformance.harness import Harness, check, clause, equal, expect, raises


class ConnectionClauses:
    """What a block does wrong is found at once, and never reaches another transaction."""

    @clause
    async def test_a_fence_stops_the_connection(self, h: Harness, node: Node) -> None:
        """Fenced, every use raises the error that was handed in, and what was written goes."""
        branch = await h.wrote(node)
        fence = GuardError("too late")
        branch.fence(fence)
        put = await raises(GuardError, h.put(branch.connection, "late", "value"), "a write behind the fence")
        get = await raises(GuardError, h.get(branch.connection, "key"), "a read behind the fence")
        equal((put, get), (fence, fence), "the fence's own error")
        await branch.roll_back(prepared=False)
        equal(await h.read(node, "late"), None, "the row")

    @clause
    async def test_a_fence_does_not_stop_the_engine(self, h: Harness, node: Node) -> None:
        """The block is over, the branch is not; the fence finds words of its own."""
        branch = await h.wrote(node)
        branch.fence()
        await raises(GuardError, h.put(branch.connection, "late", "value"), "a write behind the fence")
        expect(await branch.prepare(), Said.YES)
        await branch.commit()
        equal(await h.read(node), "value", "the committed row")

    @clause
    async def test_a_leaked_connection_is_dead(self, h: Harness, node: Node) -> None:
        """Kept beyond its branch, a connection reaches neither its session nor the next branch on it."""
        branch = await h.wrote(node)
        leaked = branch.connection
        branch.fence(GuardError("the transaction is over"))
        await branch.roll_back(prepared=False)
        following = await h.begin(node)
        await raises(GuardError, h.put(leaked, "leak", "value"), "a use after the branch")
        await following.roll_back(prepared=False)
        equal(await h.read(node, "leak"), None, "the row")

    @clause
    async def test_a_user_cannot_commit(self, h: Harness, node: Node) -> None:
        """Ending the transaction by hand is refused, and noted so that the whole transaction aborts."""
        branch = await h.wrote(node)
        check(branch.misuse is None, f"misuse before any: {branch.misuse!r}")
        error = await raises(GuardError, h.commit(branch.connection), "a commit by hand")
        equal(branch.misuse, error, "misuse")
        await branch.roll_back(prepared=False)
        equal(await h.read(node), None, "the row")

    @clause
    async def test_two_operations_at_once_are_refused(self, h: Harness, node: Node) -> None:
        """One connection serves one task at a time."""
        branch = await h.wrote(node)
        error = await raises(GuardError, h.start_two(branch.connection), "two operations at once")
        equal(branch.misuse, error, "misuse")
        await branch.roll_back(prepared=False)

    @clause
    async def test_the_pool_is_bounded(self, h: Harness, node: Node) -> None:
        """One branch more than the pool carries waits, and is then refused in the node's name; a place that comes free serves."""
        size = 2 if node.capabilities.concurrent else 1
        small = await h.opened(pool_size=size, acquire_timeout_s=0.05, lock_timeout_s=0.05)
        branches = [await h.wrote(small, f"key{number}") for number in range(size)]
        error = await raises(NodeUnavailable, h.begin(small), "a branch more than the pool has")
        check(small.name in str(error), f"it does not name the node: {error}")
        check("pool" in str(error) or not node.capabilities.concurrent, f"it does not name the pool: {error}")
        for branch in branches:
            await branch.roll_back(prepared=False)
        await (await h.wrote(small)).roll_back(prepared=False)

    @clause
    async def test_no_ending_costs_the_pool_a_place(self, h: Harness, node: Node) -> None:
        """However branches end, a pool of one serves the next."""
        small = await h.opened(pool_size=1, acquire_timeout_s=1.0)
        for number in range(2):
            await (await h.prepare(small, h.id(), f"a{number}")).commit()
            await (await h.prepare(small, h.id(), f"b{number}")).roll_back(prepared=True)
            await (await h.wrote(small)).roll_back(prepared=False)
            expect(await (await h.begin(small, read_only=True)).release(), Said.YES)
            expect(await (await h.wrote(small, branch_id=h.id(branch=0), home=True)).decide({}), Said.YES)
            failed = await h.wrote(small)
            await raises(Exception, h.fail(failed.connection), "a statement that fails")
            expect(await failed.prepare(), Said.NO)
            gone = await h.wrote(small)
            await h.cut(gone)
            await gone.roll_back(prepared=False)

    @clause
    async def test_branches_run_side_by_side(self, h: Harness, node: Node) -> None:
        """Where ``concurrent`` is declared, several branches write, prepare and end in any order."""
        if node.capabilities.concurrent:
            first, second = await h.wrote(node, "first"), await h.wrote(node, "second")
            expect(await second.prepare(), Said.YES)
            expect(await first.prepare(), Said.YES)
            await first.commit()
            await second.commit()
        else:
            for key in ("first", "second"):
                await (await h.prepare(node, h.id(), key)).commit()
        equal((await h.read(node, "first"), await h.read(node, "second")), ("value", "value"), "the rows")

    @clause
    async def test_the_pool_survives_a_restart(self, h: Harness, node: Node) -> None:
        """After the server came back, the same node object serves: dead sessions are not handed out."""
        for key in ("first", "second"):
            await (await h.prepare(node, h.id(), key)).commit()
            await h.restart()
        branch = await h.wrote(node, "third")
        expect(await branch.prepare(), Said.YES)
        await branch.commit()
        equal(await h.listed(node), set(), "listed")
