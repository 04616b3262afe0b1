"""What the suite must be told of an adapter, and the small tools that the clauses share."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from nodoubt.engine.worlds import AsyncWorld, ThreadWorld, run_now
from nodoubt.errors import NodoubtError
from nodoubt.nodes.contract import ATOMIC, Answer, Branch, Ended, Gate, Isolation, Node, Said, Terms
from nodoubt.nodes.world import World
from nodoubt.protocol.ids import BranchId, new_gid

T = TypeVar("T")

DOMAIN = "conformance"
#: How often a step that answers "not now" is repeated before a clause gives up on it, and the pause in seconds.
TRIES_MAX = 100
TRY_PAUSE_S = 0.02
#: How long a clause lets an adapter wait for a lock or a gate that comes free, in seconds.
PATIENCE_S = 5.0
#: Settings of a node that waits longer than that, unless it is told not to.
PATIENT: Mapping[str, float] = {"acquire_timeout_s": PATIENCE_S + 1, "lock_timeout_s": PATIENCE_S + 1}
#: How long a call hangs before its branch is abandoned, in seconds: enough for a packet to leave.
HANG_S = 0.2


class Harness(abc.ABC):
    """One fresh, empty database, and how to speak to it. One object serves one clause.

    Methods with ``connection`` get ``branch.connection`` and use it as a user would: in an asynchronous world they await the
    driver, otherwise they call it. Keys and values are short ASCII texts.
    """

    #: Whether nodes run in asyncio; otherwise every ``await`` must end without suspending.
    asynchronous: bool = True
    #: The pool that nodes are made with, where they have one.
    pool_size = 4

    def __init__(self) -> None:
        self.world: World = AsyncWorld() if self.asynchronous else ThreadWorld()
        self._opened: list[Node] = []
        self._begun: list[Branch] = []
        self._gates: list[Gate] = []
        self._numbers = itertools.count(1)

    @abc.abstractmethod
    def node(self, name: str = "here", domain: str = DOMAIN, **settings: Any) -> Node:
        """A new node object on the database, as another process would have one.

        ``settings`` are fields of NodeSettings: ``pool_size``, ``acquire_timeout_s``, ``lock_timeout_s``.
        """

    @abc.abstractmethod
    async def make_table(self) -> None:
        """Make the table that put and get use; called once, after ``install``."""

    @abc.abstractmethod
    async def put(self, connection: Any, key: str, value: str) -> None:
        """Insert or overwrite a row."""

    @abc.abstractmethod
    async def get(self, connection: Any, key: str) -> str | None:
        """Read a row."""

    @abc.abstractmethod
    async def fail(self, connection: Any) -> None:
        """Run a statement that the database refuses, such as a duplicate key; let the driver's error out."""

    @abc.abstractmethod
    async def savepoint(self, connection: Any, name: str) -> None:
        """Set a savepoint by the database's own statement."""

    @abc.abstractmethod
    async def rollback_to(self, connection: Any, name: str) -> None:
        """Return to a savepoint by the database's own statement."""

    @abc.abstractmethod
    async def commit(self, connection: Any) -> None:
        """What a user must not do: end the transaction by himself, by statement or method."""

    @abc.abstractmethod
    async def hold_decision(self, connection: Any, gid: str) -> None:
        """Insert a committed decision row for ``gid`` into nodoubt's table, complete and without participants.

        From then on the open branch holds whatever a decision holds until its COMMIT.
        """

    @abc.abstractmethod
    async def run_ddl(self, text: str) -> None:
        """Run the statements of ``Node.ddl`` on the empty database, as an administrator would."""

    async def start_two(self, connection: Any) -> None:
        """Start a second operation on the connection while the first is under way; let the guard's error out.

        Where drivers block, the two come from two threads: override it.
        """
        reads = self.get(connection, "a"), self.get(connection, "b")
        for result in await asyncio.gather(*reads, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def cut(self, branch: Branch) -> None:
        """End the branch's session from outside, so that the adapter does not know it yet; here: by its own hand."""
        branch.abandon()

    async def restart(self) -> None:
        """Crash the server and start it again; where there is none, nothing."""
        return

    async def pause(self) -> None:
        """From now on what is sent stays on its way, unanswered; where nothing is ever on its way, nothing."""
        return

    async def resume(self) -> None:
        """Let everything arrive, also what a dead session had sent; before and after that the adapter works as ever."""
        return

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the adapter's world."""
        if self.asynchronous:
            return asyncio.run(step)
        return run_now(step)

    def close(self) -> None:
        """Called after each clause."""
        if isinstance(self.world, ThreadWorld):
            self.world.close()

    # Tools of the clauses.

    async def opened(self, **settings: Any) -> Node:
        """A node object, open; it is closed after the clause."""
        node = self.node(**{"pool_size": self.pool_size, **settings})
        await node.open()
        self._opened.append(node)
        return node

    async def close_nodes(self) -> None:
        """End every node object with its sessions, as the end of its process would."""
        while self._gates:
            with contextlib.suppress(NodoubtError):
                await self._gates.pop().reopen()
        while self._begun:
            self._begun.pop().abandon()
        while self._opened:
            await self._opened.pop().close()

    def id(self, *, gid: str = "", branch: int = 1, home: str = "", domain: str = DOMAIN) -> BranchId:
        """A branch id; of a new transaction unless ``gid`` names one. Number 0 is home's, unless ``home`` names another node."""
        home = home or ("there" if branch else "here")
        return BranchId(domain=domain, gid=gid or self.gid(), branch=branch, home=home)

    def gid(self) -> str:
        """A new gid; later ones are greater."""
        return new_gid(self.world.unix_ms() + next(self._numbers), self.world.random(10))

    async def begin(
        self,
        node: Node,
        branch_id: BranchId | None = None,
        *,
        read_only: bool = False,
        home: bool = False,
        terms: Terms = ATOMIC,
    ) -> Branch:
        """Open a branch."""
        branch = await node.begin(branch_id or self.id(), read_only=read_only, is_home=home, terms=terms)
        self._begun.append(branch)
        if terms.isolation is Isolation.SNAPSHOT:
            await branch.take_snapshot()
        return branch

    async def wrote(
        self,
        node: Node,
        key: str = "key",
        *,
        branch_id: BranchId | None = None,
        home: bool = False,
        terms: Terms = ATOMIC,
    ) -> Branch:
        """Open a branch and write its key."""
        branch = await self.begin(node, branch_id, home=home, terms=terms)
        await self.put(branch.connection, key, "value")
        return branch

    async def prepare(self, node: Node, branch_id: BranchId, key: str = "key", *, terms: Terms = ATOMIC) -> Branch:
        """Open a branch, write its key and prepare it."""
        branch = await self.wrote(node, key, branch_id=branch_id, terms=terms)
        expect(await branch.prepare(), Said.YES)
        return branch

    async def commit_row(self, node: Node, key: str = "key", value: str = "value") -> str:
        """Write a key in a transaction of one branch; the gid of its decision, which is complete."""
        branch_id = self.id(branch=0)
        branch = await self.begin(node, branch_id, home=True)
        await self.put(branch.connection, key, value)
        expect(await branch.decide({}), Said.YES)
        return branch_id.gid

    async def close_gate(self, node: Node, wait_s: float = PATIENCE_S) -> Gate:
        """Close a node's gate; whatever becomes of the clause, it is opened again."""
        gate = await node.close_gate(wait_s)
        self._gates.append(gate)
        return gate

    async def beside(self, step: Coroutine[Any, Any, T], meanwhile: Coroutine[Any, Any, Any]) -> tuple[T, bool]:
        """Take a step and, a while after it began, another one; with the first one's result, whether it had to wait for it."""
        ended = False

        async def first() -> T:
            nonlocal ended
            try:
                return await step
            finally:
                ended = True

        async def second() -> bool:
            await self.world.sleep(HANG_S)
            waits = not ended
            await meanwhile
            return waits

        result, waited = await self.world.together([_caught(first()), _caught(second())])
        for one in (result, waited):
            if isinstance(one, Exception):
                raise one
        return result, waited

    async def read(self, node: Node, key: str = "key") -> str | None:
        """The committed value of a key."""
        branch = await self.begin(node, read_only=True)
        value = await self.get(branch.connection, key)
        await branch.release()
        return value

    async def hang(self, branch: Branch, step: Callable[[], Awaitable[T]]) -> T:
        """Take a step that gets no answer until the branch is abandoned; afterwards what was sent arrives."""
        await self.pause()
        self.world.later(HANG_S, branch.abandon)
        try:
            return await step()
        finally:
            await self.resume()

    async def settled(self, node: Node, branch_id: BranchId, *, commit: bool) -> Ended:
        """Finish a branch as the settler does: by the id that the node lists, again and again while it is owed."""

        async def finish() -> Ended:
            ids = [found.id for found in (await node.prepared()).ours]
            named = next(
                (other for other in ids if (other.gid, other.branch) == (branch_id.gid, branch_id.branch)), branch_id
            )
            return await node.finish(named, commit=commit)

        return await self.until(finish, lambda ended: ended is not Ended.OWED)

    async def listed(self, node: Node) -> set[tuple[str, int]]:
        """The (gid, branch) pairs that a node lists as prepared."""
        return {(found.id.gid, found.id.branch) for found in (await node.prepared()).ours}

    async def until(self, ask: Callable[[], Awaitable[T]], enough: Callable[[T], bool]) -> T:
        """Ask until the answer is enough; a NodeUnavailable counts as none. Bounded."""
        last: Any = None
        for _ in range(TRIES_MAX):
            try:
                last = await ask()
            except NodoubtError as error:
                last = error
            else:
                if enough(last):
                    break
            await self.world.sleep(TRY_PAUSE_S)
        check(not isinstance(last, NodoubtError) and enough(last), f"it stayed at {last!r}")
        found: T = last
        return found


class BrokenClause(AssertionError):
    """The adapter does not do what the contract says."""


def check(condition: object, message: str) -> None:
    """Fail the clause with a message unless the condition holds."""
    if not condition:
        raise BrokenClause(message)


def expect(answer: Answer, *said: Said) -> None:
    """The answer must be one of these; anything but yes must say why."""
    check(answer.said in said, f"answered {answer.said} ({answer.reason}), expected {' or '.join(said)}")
    check(answer.said is Said.YES or answer.reason, f"{answer.said} without a reason")


def equal(found: object, expected: object, what: str) -> None:
    """Fail the clause unless both are equal."""
    check(found == expected, f"{what}: found {found!r}, expected {expected!r}")


async def raises(kind: type[BaseException], step: Awaitable[Any], what: str) -> BaseException:
    """The step must raise this kind of error; returns it."""
    try:
        await step
    except kind as error:
        return error
    except BaseException as error:
        raise BrokenClause(f"{what}: raised {error!r}, expected {kind.__name__}") from error
    raise BrokenClause(f"{what}: raised nothing, expected {kind.__name__}")


async def _caught(step: Coroutine[Any, Any, Any]) -> Any:
    """Steps that are taken together do not raise."""
    try:
        return await step
    except Exception as error:
        return error


Body = Callable[[Any, Harness, Node], Coroutine[Any, Any, None]]


def clause(body: Body) -> Callable[[Any, Harness], None]:
    """Make a clause: it runs in the harness's world, on a node that is installed and open."""

    async def run(self: Any, harness: Harness) -> None:
        await harness.node().install()
        await harness.make_table()
        try:
            await body(self, harness, await harness.opened())
        finally:
            await harness.close_nodes()

    return _named(run, body)


def bare_clause(body: Callable[[Any, Harness], Coroutine[Any, Any, None]]) -> Callable[[Any, Harness], None]:
    """Make a clause that begins on an empty database, before ``install``."""

    async def run(self: Any, harness: Harness) -> None:
        try:
            await body(self, harness)
        finally:
            await harness.close_nodes()

    return _named(run, body)


def _named(
    run: Callable[[Any, Harness], Coroutine[Any, Any, None]], body: Callable[..., Any]
) -> Callable[[Any, Harness], None]:
    # pytest reads the signature for fixtures, so this is not functools.wraps.
    def test(self: Any, harness: Harness) -> None:
        try:
            harness.run(run(self, harness))
        finally:
            harness.close()

    test.__name__ = body.__name__
    test.__qualname__ = body.__qualname__
    test.__doc__ = body.__doc__
    test.__module__ = body.__module__
    return test


def as_set(items: Sequence[T]) -> set[T]:
    """A list without repetition, as a set."""
    check(len(set(items)) == len(items), f"something is listed twice: {items}")
    return set(items)
