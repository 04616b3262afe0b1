"""Clauses about the terms of a branch: snapshots that show one moment, reads that stay, locks that end with the branch."""

from __future__ import annotations

from typing import cast

from nodoubt.errors import NodeUnavailable
from nodoubt.nodes.contract import Branch, Ended, Glance, Glancing, Isolation, Key, Node, Said, Terms
from nodoubt.testing.conformance.harness import (
    PATIENCE_S,
    PATIENT,
    BrokenClause,
    Harness,
    check,
    clause,
    equal,
    expect,
    raises,
)

#: How long a branch waits for a lock, in seconds.
LOCK_WAIT_S = 0.3
#: How long who holds a lock keeps it, in seconds, to see whether others still wait no longer than ``LOCK_WAIT_S``.
HELD_S = 1.5

SNAPSHOT = Terms(isolation=Isolation.SNAPSHOT, lock_wait_s=LOCK_WAIT_S)
READS, WRITES = Key(name="key", shared=True), Key(name="key")


def serializable(*keys: Key) -> Terms:
    """The terms of a serializable branch that declares these keys."""
    return Terms(isolation=Isolation.SERIALIZABLE, keys=keys, lock_wait_s=LOCK_WAIT_S)


class IsolationClauses:
    """Between serializable branches that declare keys, or none, the same holds wherever a node's locks come from."""

    @clause
    async def test_a_node_begins_what_it_does_not_refuse(self, h: Harness, node: Node) -> None:
        """Each level that is not refused can be had; atomic is never refused."""
        for read_only in (False, True):
            equal(node.refusal(Isolation.ATOMIC, read_only=read_only), "", "why atomic is refused")
            for level in Isolation:
                if not node.refusal(level, read_only=read_only):
                    branch = await h.begin(node, read_only=read_only, terms=Terms(isolation=level))
                    equal(await h.get(branch.connection, "key"), None, "a row")
                    await branch.roll_back(prepared=False)

    # Snapshots

    @clause
    async def test_a_glance_is_never_too_bold(self, h: Harness, node: Node) -> None:
        """Where ``tells_stillness`` is declared: whoever writes or has prepared is at work, and who commits moves the node."""
        if not node.capabilities.tells_stillness:
            return
        other = await h.opened()
        await (await _quiet(h, node)).roll_back(prepared=False)
        writer = await h.wrote(other, branch_id=h.id())
        equal(await _told(h, node), Glance.BUSY, "a glance while somebody has written")
        expect(await writer.prepare(), Said.YES)
        equal(await _told(h, node), Glance.BUSY, "a glance while a branch is prepared")
        equal(await writer.commit(), Ended.DONE, "commit")
        reader = await _quiet(h, node)
        await h.commit_row(other, "key", "younger")
        check(not await reader.is_still(), "it stands still although somebody committed")
        equal(await h.get(reader.connection, "key"), "value", "a row that is older than the glance")
        await reader.roll_back(prepared=False)
        reader = await _quiet(h, node)
        writer = await h.prepare(other, h.id())
        check(not await reader.is_still(), "it stands still although somebody prepared")
        await reader.roll_back(prepared=False)
        equal(await writer.roll_back(prepared=True), Ended.DONE, "rollback")
        check(await _told(h, node) is not Glance.UNMOVED, "unmoved since before somebody prepared")

    @clause
    async def test_a_glance_gives_way_to_a_snapshot(self, h: Harness, node: Node) -> None:
        """A snapshot that is taken behind a glance shows what was committed in between, and stays."""
        if not node.capabilities.tells_stillness:
            return
        other = await h.opened()
        for read_only in (True, False):
            branch, _ = await _glanced(h, node, read_only=read_only)
            await h.commit_row(other, f"before{read_only}")
            await branch.take_snapshot()
            await h.commit_row(other, f"behind{read_only}")
            equal(await h.get(branch.connection, f"before{read_only}"), "value", "a row older than the snapshot")
            equal(await h.get(branch.connection, f"behind{read_only}"), None, "a row younger than the snapshot")
            await branch.roll_back(prepared=False)

    @clause
    async def test_a_snapshot_is_taken_when_it_is_told(self, h: Harness, node: Node) -> None:
        """What commits before is seen, also by a branch that was begun earlier; what commits after it is not, however late."""
        other = await h.opened()
        await h.commit_row(other, "before", "old")
        reader = await node.begin(h.id(), read_only=True, is_home=False, terms=SNAPSHOT)
        await h.commit_row(other, "before")
        await reader.take_snapshot()
        await h.commit_row(other)
        equal(await h.get(reader.connection, "before"), "value", "a row that is older than the snapshot")
        for _ in range(2):
            equal(await h.get(reader.connection, "key"), None, "a row that is younger than the snapshot")
            equal(await h.get(reader.connection, "before"), "value", "a row that is older than the snapshot")
        expect(await reader.release(), Said.YES)
        equal(await h.read(node), "value", "the row afterwards")

    @clause
    async def test_a_snapshot_that_writes_is_taken_when_it_is_told(self, h: Harness, node: Node) -> None:
        """The same for branches that write, at home and elsewhere; where only one can write, nothing commits meanwhile."""
        hasty = await h.opened(acquire_timeout_s=0.1, lock_timeout_s=0.1)
        for home in (False, True):
            mine, theirs = f"mine{home}", f"theirs{home}"
            branch = await h.begin(node, home=home, terms=SNAPSHOT)
            if node.capabilities.concurrent:
                await h.commit_row(hasty, theirs)
            else:
                await raises(NodeUnavailable, h.commit_row(hasty, theirs), "a second writer")
            equal(await h.get(branch.connection, theirs), None, "a row that is younger than the snapshot")
            await h.put(branch.connection, mine, "value")
            expect(await (branch.decide({}) if home else branch.prepare()), Said.YES)
            if not home:
                equal(await branch.commit(), Ended.DONE, "commit")
            equal(await h.read(node, mine), "value", "the row that was written")

    @clause
    async def test_a_snapshot_overwrites_nothing_that_it_does_not_show(self, h: Harness, node: Node) -> None:
        """A row that was changed since, by a whole transaction or by the commit of a prepared one: refused, to be tried again.

        Unless the node refuses such branches: see :meth:`Node.refusal`.
        """
        if node.refusal(Isolation.SNAPSHOT, read_only=False):
            return
        await h.commit_row(node, "key", "old")
        other = await h.opened()
        for was_prepared in (False, True):
            prepared = await h.prepare(other, h.id()) if was_prepared and node.capabilities.concurrent else None
            branch = await h.begin(node, terms=SNAPSHOT)
            seen = await h.get(branch.connection, "key")
            if prepared is not None:
                equal(await prepared.commit(), Ended.DONE, "commit")
            elif node.capabilities.concurrent:
                await h.commit_row(other)
            else:
                await _stopped(h, other, SNAPSHOT)
                await branch.roll_back(prepared=False)
                continue
            equal(await h.get(branch.connection, "key"), seen, "the row in the snapshot")
            await _refused(h, branch)
            equal(await h.read(node), "value", "the row that was not overwritten")
            await h.commit_row(node, "key", "old")

    @clause
    async def test_a_snapshot_is_shared(self, h: Harness, node: Node) -> None:
        """Where ``shares_snapshots`` is declared, other branches open the same one for as long as it is open."""
        other = await h.opened()
        first = await h.begin(node, read_only=True, terms=SNAPSHOT)
        export = await first.export() if node.capabilities.shares_snapshots else ""
        await h.commit_row(other)
        terms = Terms(isolation=Isolation.SNAPSHOT, export=export)
        second = await h.begin(other, read_only=True, terms=terms)
        equal(
            await h.get(second.connection, "key"), None if export else "value", "a row that is younger than the first"
        )
        await second.roll_back(prepared=False)
        await first.roll_back(prepared=False)
        if export:
            await raises(
                NodeUnavailable, h.begin(other, read_only=True, terms=terms), "share a snapshot that is closed"
            )
            await raises(NodeUnavailable, first.export(), "export a snapshot that is closed")

    # Serializable

    @clause
    async def test_serializable_reads_stay(self, h: Harness, node: Node) -> None:
        """What was read is not written by others until the branch ends; they fail in time, and may try again."""
        other = await h.opened(**PATIENT)
        await h.commit_row(node, "key", "old")
        for read_only in (True, False):
            for reads, writes in (((READS,), (WRITES,)), ((), ()), ((READS,), ())):
                reader = await h.begin(node, read_only=read_only, terms=serializable(*reads))
                equal(await h.get(reader.connection, "key"), "old", "the row")
                await _stopped(h, other, serializable(*writes))
                equal(await h.get(reader.connection, "key"), "old", "the row again")
                if read_only:
                    expect(await reader.release(), Said.YES)
                else:
                    await reader.roll_back(prepared=False)
                await (await h.wrote(other, terms=serializable(*writes))).roll_back(prepared=False)

    @clause
    async def test_serializable_writes_exclude(self, h: Harness, node: Node) -> None:
        """Two who write the same, whether they declare it or lock everything, come one after the other."""
        other = await h.opened(**PATIENT)
        for mine, theirs in (((WRITES,), (WRITES,)), ((), (WRITES,)), ((WRITES,), ()), ((), ())):
            writer = await h.wrote(node, terms=serializable(*mine), home=True, branch_id=h.id(branch=0))
            await _stopped(h, other, serializable(*theirs))
            await _stopped(h, other, serializable(*(READS for _ in theirs)), reads=True)
            expect(await writer.decide({}), Said.YES)
            await (await h.wrote(other, terms=serializable(*theirs))).roll_back(prepared=False)

    @clause
    async def test_serializable_branches_share_what_they_read(self, h: Harness, node: Node) -> None:
        """Shared keys, and keys of different names, exclude nobody; where only one branch can write, it is alone in any case."""
        other = await h.opened(**PATIENT)
        for key in ("a", "key"):
            await h.commit_row(node, key)
        reader = await h.begin(node, terms=serializable(READS))
        equal(await h.get(reader.connection, "key"), "value", "the row")
        if node.capabilities.concurrent:
            second = await h.begin(other, terms=serializable(READS))
            equal(await h.get(second.connection, "key"), "value", "the row")
            third = await h.wrote(other, "a", terms=serializable(Key(name="a")))
            for branch in (reader, second, third):
                expect(await branch.prepare(), Said.YES)
                equal(await branch.commit(), Ended.DONE, "commit")
        else:
            await _stopped(h, other, serializable(READS), reads=True)
            await reader.roll_back(prepared=False)

    @clause
    async def test_a_prepared_branch_keeps_its_locks(self, h: Harness, node: Node) -> None:
        """Also when its process is gone, and after a crash, until somebody finishes it."""
        for crash in (False, True):
            for keys in ((WRITES,), ()):
                branch_id, owner = h.id(), await h.opened()
                # What is overwritten with itself was only read, and MariaDB forgets in a crash what a branch has read.
                await h.commit_row(owner, "key", "old")
                await h.prepare(owner, branch_id, terms=serializable(*keys))
                await h.close_nodes()
                if crash:
                    await h.restart()
                other = await h.opened(**PATIENT)
                await _stopped(h, other, serializable(*keys))
                equal(await h.settled(other, branch_id, commit=True), Ended.DONE, "finish")
                following = await h.wrote(other, terms=serializable(*keys))
                expect(await following.prepare(), Said.YES)
                await following.commit()

    # Sessions

    @clause
    async def test_terms_end_with_their_branch(self, h: Harness, node: Node) -> None:
        """An atomic branch behaves on a session that served other terms as it does on any other."""
        small = await h.opened(pool_size=1, **PATIENT)
        before = await _behaviour(h, small, node, "before")
        expect(await (await h.begin(small, read_only=True, terms=SNAPSHOT)).release(), Said.YES)
        equal(await _behaviour(h, small, node, "snapshot"), before, "after a snapshot")
        await (await h.wrote(small, terms=serializable(WRITES))).roll_back(prepared=False)
        equal(await _behaviour(h, small, node, "serializable"), before, "after a serializable branch")


async def _refused(h: Harness, branch: Branch) -> None:
    """Overwriting the row fails, at once or at the vote, and may be tried again."""
    try:
        await h.put(branch.connection, "key", "lost update")
    except Exception as error:
        check(branch.is_retryable(error), f"it may be tried again, but the branch says not: {error!r}")
        expect(await branch.prepare(), Said.NO)
    else:
        answer = await branch.prepare()
        expect(answer, Said.NO)
        check(answer.retryable, f"it may be tried again, but the vote says not: {answer}")


async def _stopped(h: Harness, node: Node, terms: Terms, *, reads: bool = False) -> None:
    """A branch is kept from writing, or reading, the row: by begin or by its statement, soon, and it may be tried again."""
    before = h.world.now()
    branch = None
    try:
        branch = await h.begin(node, terms=terms)
        await (h.get(branch.connection, "key") if reads else h.put(branch.connection, "key", "value"))
    except Exception as error:
        retryable = branch.is_retryable(error) if branch else isinstance(error, NodeUnavailable) and error.retryable
        check(retryable, f"it may be tried again, but the error says not: {error!r}")
        check(h.world.now() - before < PATIENCE_S, f"it waited for much longer than {LOCK_WAIT_S} s")
        if branch is not None:
            await branch.roll_back(prepared=False)
        return
    raise BrokenClause(f"it {'reads' if reads else 'writes'} what somebody else has locked")


async def _behaviour(h: Harness, node: Node, other: Node, key: str) -> tuple[object, ...]:
    """What an atomic branch sees of later commits; where several can write, its writer waits for another one."""
    reader = await h.begin(node, read_only=True)
    await h.commit_row(other, f"{key}1")
    seen = await h.get(reader.connection, f"{key}1")
    expect(await reader.release(), Said.YES)
    if not node.capabilities.concurrent:
        return (seen,)
    writer = await h.begin(node)
    looked = await h.get(writer.connection, f"{key}2")
    await h.commit_row(other, f"{key}2")
    looked_again = await h.get(writer.connection, f"{key}2")
    holder = await h.wrote(other, f"{key}3")

    async def let_go() -> None:
        await h.world.sleep(HELD_S)
        await holder.roll_back(prepared=False)

    await h.beside(h.put(writer.connection, f"{key}3", "value"), let_go())
    await writer.roll_back(prepared=False)
    return seen, looked, looked_again


async def _glanced(h: Harness, node: Node, *, read_only: bool = True) -> tuple[Glancing, Glance]:
    """A branch that took its snapshot with a glance, and what that told."""
    branch = cast(Glancing, await node.begin(h.id(), read_only=read_only, is_home=False, terms=SNAPSHOT))
    return branch, await branch.glance()


async def _told(h: Harness, node: Node) -> Glance:
    """What a glance tells now."""
    branch, glance = await _glanced(h, node)
    await branch.roll_back(prepared=False)
    return glance


async def _quiet(h: Harness, node: Node) -> Glancing:
    """A branch that knows that all is still: soon, though others may be at work on the same server."""
    until = h.world.now() + PATIENCE_S
    while True:
        branch, glance = await _glanced(h, node)
        if glance is not Glance.BUSY and await branch.is_still():
            return branch
        await branch.roll_back(prepared=False)
        check(h.world.now() < until, "the node never stands still")
