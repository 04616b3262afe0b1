"""The engine of one manager: its nodes, its live transactions, and the bookkeeping that settling and forgetting need."""

from __future__ import annotations

import difflib
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Unpack

from nodoubt.engine.deadlines import Deadlines
from nodoubt.engine.instant import Openings
from nodoubt.engine.moments import Moment, in_time
from nodoubt.engine.outcomes import outcome_of
from nodoubt.engine.performer import Watch
from nodoubt.engine.request import PLAIN, Wishes, request, seconds
from nodoubt.engine.settle import BATCH, Doubt, Settler, SettleReport, complete
from nodoubt.engine.work import Work
from nodoubt.errors import ConfigError, GuardError, NodeUnavailable, NodoubtError, Outcome
from nodoubt.nodes.contract import ATOMIC, Ended, Hurried, Node, Terms, may_be_home
from nodoubt.nodes.world import World
from nodoubt.protocol.ids import BranchId, gid_at, is_gid, new_gid
from nodoubt.protocol.transaction import Transaction
from nodoubt.protocol.verdicts import HomeSays

logger = logging.getLogger("nodoubt")

#: Rows that one purge takes, so that no transaction of ours grows long.
PURGE_BATCH = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be set for a manager. Times are in seconds."""

    #: A transaction that is not decided by then is aborted.
    timeout_s: float = 60.0
    #: How often the background settler looks at all nodes.
    settle_every_s: float = 10.0
    #: Branches younger than this are left to their owner.
    grace_s: float = 30.0
    #: How often finished decisions are marked complete.
    forget_every_s: float = 1.0
    #: How long complete decisions and tombstones are kept; far longer than any session of ours can idle in a transaction.
    retention_s: float = 6 * 3600.0
    #: How often what is older is deleted, and servers are asked again whether they force what they commit.
    purge_every_s: float = 60.0
    #: How long a serializable transaction waits for a lock; chance makes it up to twice as long.
    lock_wait_s: float = 5.0
    #: Settle in the background.
    settle: bool = True
    #: Seen by crash harnesses and traces.
    watch: Watch | None = field(default=None, compare=False)


class Engine:
    """Everything that both shells share. Its coroutines run in either world."""

    def __init__(self, nodes: Sequence[Node], world: World, *, domain: str, settings: Settings) -> None:
        self.nodes: Mapping[str, Node] = {node.name: node for node in nodes}
        self.world = world
        self.domain = domain
        self.settings = settings
        self.watch = settings.watch
        self.live: dict[str, Work] = {}
        self._pid = os.getpid()
        self._loop = world.loop()
        #: Called when something was handed over: the background settler should not wait for its next round.
        self.nudge: Callable[[], None] = lambda: None
        self._deadlines = Deadlines(world, self.live)
        self.openings = Openings(self.nodes, world)
        self._settler = Settler(self.nodes, world, self.live.__contains__, self.watch, settings.retention_s)
        self._owed: set[str] = set()
        #: gid -> home, of transactions whose end home did not tell, and when it was asked to decide.
        self._unknown: dict[str, tuple[str, Moment]] = {}
        #: node -> transactions whose callers were told that they are committed, and whose branch there is not finished.
        self.left: dict[str, frozenset[str]] = {}
        #: Branches in doubt that transactions stumbled over -> their nodes, and when that was.
        self._in_the_way: dict[BranchId, tuple[str, Moment]] = {}
        #: home -> gid -> participants, to be marked complete.
        self._finished: dict[str, dict[str, Mapping[int, str]]] = defaultdict(dict)
        self._lock = threading.Lock()
        self._next_settle = self._next_purge = 0.0
        for node in nodes:
            if not node.capabilities.concurrent and isinstance(node, Hurried):
                node.hurry = partial(self.found_in_the_way, node.name)

    async def open(self) -> None:
        """Open every node; if one fails, close those that were opened."""
        try:
            for node in self.nodes.values():
                await node.open()
        except BaseException:
            await self.close()
            raise
        self._next_settle = self.world.now()
        self._next_purge = self.world.now() + self.settings.purge_every_s

    async def close(self) -> None:
        """Mark what is finished and close every node. Live transactions are not waited for."""
        if os.getpid() != self._pid:
            # A child that was forked: whatever it sends would be read as its parent's.
            return
        self._deadlines.close()
        await self.flush()
        for node in self.nodes.values():
            await node.close()

    def node(self, name: str) -> Node:
        """The node of that name, or ConfigError with a suggestion."""
        try:
            return self.nodes[name]
        except KeyError:
            close = difflib.get_close_matches(str(name), self.nodes, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"configured are: {', '.join(self.nodes) or 'none'}"
            raise ConfigError(f"no node is called {name!r}", hint=hint) from None

    def default_home(self) -> str:
        """The first configured node that can hold decisions, for transactions that begin on one that cannot."""
        for node in self.nodes.values():
            if may_be_home(node):
                return node.name
        raise ConfigError("no configured node can hold a decision", hint="run `nodoubt doctor`")

    def begin(
        self,
        *,
        home: str | None = None,
        timeout_s: float | None = None,
        attempt: int = 1,
        **wishes: Unpack[Wishes],
    ) -> Work:
        """Begin a transaction; nothing is sent to any node yet. Of a closure that is run again, ``attempt`` counts the runs."""
        self._require_own_context()
        if home is not None and not may_be_home(self.node(home)):
            raise ConfigError(f"node {home!r} cannot be home", hint="run `nodoubt doctor` to see why")
        asked, terms = PLAIN, ATOMIC
        if wishes:
            asked = request(self.node, self.nodes, **wishes)
            terms = Terms(isolation=asked.isolation, keys=asked.keys, lock_wait_s=self._lock_wait_s(attempt))
        gid = new_gid(self.world.unix_ms(), self.world.random(10))
        timeout_s = self.settings.timeout_s if timeout_s is None else seconds(timeout_s)
        work = Work(self, gid, home=home, timeout_s=timeout_s, request=asked, terms=terms)
        self.live[gid] = work
        self._deadlines.keep(work.deadline_s)
        return work

    def _require_own_context(self) -> None:
        """Raise GuardError where its connections cannot be used."""
        if os.getpid() != self._pid:
            raise GuardError(
                "the manager was opened in another process, and its connections are that one's",
                hint="open a manager in each process, behind the fork",
            )
        if self.world.loop() is not self._loop:
            raise GuardError(
                "the manager was opened in another event loop, and its connections are that one's",
                hint="open a manager in each event loop: asyncio.run() makes a new one",
            )

    def _lock_wait_s(self, attempt: int) -> float:
        """By chance up to twice as long: of two that wait for each other one gives up first. Who gave up before waits longer."""
        return self.settings.lock_wait_s * attempt * (1 + int.from_bytes(self.world.random(2), "big") / 0xFFFF)

    async def catch_up(self, node: Node) -> None:
        """Make sure that what callers of this process were told is committed can be seen on a node. Raises NodeUnavailable."""
        left = self.left.get(node.name, frozenset())
        prepared = {branch.id.gid: branch.id for branch in (await node.prepared()).ours}
        for gid in sorted(left):
            if gid in prepared and await node.finish(prepared[gid], commit=True) is Ended.OWED:
                raise NodeUnavailable(
                    f"node {node.name!r} does not show transaction {gid} yet, which is committed",
                    hint="it is being settled: try again",
                )
        with self._lock:
            self.left[node.name] = self.left.get(node.name, frozenset()) - left

    def forget(self, machine: Transaction, home: str | None) -> None:
        """Every branch of a committed transaction is finished: its row is marked complete with the next batch."""
        if home is not None:
            with self._lock:
                self._finished[home][machine.gid] = machine.participants

    def hand_over(self, work: Work, decided: Moment | None) -> None:
        """Something of a transaction is left to do: settle it without waiting for the grace period."""
        with self._lock:
            self._owed.add(work.gid)
            if work.outcome.state == "unknown" and work.home is not None:
                self._unknown[work.gid] = work.home, decided or Moment.of(self.world)
            if work.outcome.state == "committed":
                for node in work.outcome.pending:
                    self.left[node] = self.left.get(node, frozenset()) | {work.gid}
        self.hurry()

    def hurry(self) -> None:
        """Let the background settle now instead of at its next round."""
        self._next_settle = self.world.now()
        self.nudge()

    def found_in_the_way(self, node: str, doubt: BranchId, gid: str) -> bool:
        """The background is to settle a branch first of all. Returns whether transaction ``gid`` may wait for that.

        Not while it holds locks and home has a single one for all writers: settling needs that one, and it may be held by
        the very transaction, or by one that waits for it.
        """
        if doubt.domain == self.domain:
            with self._lock:
                self._in_the_way[doubt] = node, Moment.of(self.world)
            self.nudge()
        work, home = self.live.get(gid), self.nodes.get(doubt.home)
        return work is None or not work.has_written or (home is not None and home.capabilities.concurrent)

    async def clear_the_way(self) -> None:
        """Settle the branches that transactions of this process stumbled over."""
        with self._lock:
            found, self._in_the_way = self._in_the_way, {}
        if found:
            await self.world.together([self._settler.clear(branch, *where) for branch, where in found.items()])

    async def flush(self) -> None:
        """Mark finished decisions complete, in batches. What cannot be marked now is found again by settling."""
        with self._lock:
            finished, self._finished = self._finished, defaultdict(dict)
        for home, by_gid in finished.items():
            gids = list(by_gid)
            for first in range(0, len(gids), BATCH):
                try:
                    await complete(self.nodes, home, {gid: by_gid[gid] for gid in gids[first : first + BATCH]})
                except NodoubtError as error:
                    logger.info("not marked complete yet: %s", error)

    async def settle(
        self, *, grace_s: float | None = None, progress: Callable[[int, int], None] | None = None
    ) -> SettleReport:
        """One round of settling over all nodes."""
        self._require_own_context()
        await self.flush()
        await self._ask_again()
        with self._lock:
            owed = frozenset(self._owed)
        report = await self._settler.round(
            grace_s=self.settings.grace_s if grace_s is None else grace_s, owed=owed, progress=progress
        )
        waiting = {doubt.gid for doubt in report.waiting}
        with self._lock:
            # A node that did not answer may hold branches that were not seen: keep what is owed until all were heard.
            self._owed -= {gid for gid in owed if gid not in waiting and not report.unreachable}
            self.left = {node: left for node, gids in self.left.items() if (left := gids & self._owed)}
        return report

    @property
    def unknown(self) -> Collection[str]:
        """The transactions of this process whose end home has not told yet: each round of settling asks again."""
        return self._unknown.keys()

    async def _ask_again(self) -> None:
        """Probe for the ends that home did not tell: where nothing is prepared, nothing else would bring a settler there."""
        with self._lock:
            homes = dict.fromkeys(home for home, _ in self._unknown.values())
        for home in homes:
            with self._lock:
                # A tombstone for what was committed and purged would be a lie.
                for gid, (_, decided) in list(self._unknown.items()):
                    if decided.is_late(self.world, self.settings.retention_s):
                        del self._unknown[gid]
                asked = {gid: decided for gid, (at, decided) in self._unknown.items() if at == home}
            try:
                nobody_slept = in_time(asked.values(), self.world, self.settings.retention_s)
                says = await self.nodes[home].probe([*asked], nobody_slept) if asked else {}
            except NodoubtError as error:
                logger.info("not asked again yet: %s", error)
                continue
            with self._lock:
                for gid in [gid for gid, found in says.items() if found is not HomeSays.BUSY]:
                    self._unknown.pop(gid, None)

    async def in_doubt(self) -> list[Doubt]:
        """Everything that is prepared or decided and not finished, and not at work in this process. Touches nothing."""
        return (await self.look()).waiting

    async def look(self) -> SettleReport:
        """What is in doubt (``waiting``), and the nodes that could not be asked (``unreachable``). Touches nothing."""
        self._require_own_context()
        return await self._settler.look()

    async def outcome(self, gid: str) -> Outcome:
        """What became of a transaction, of this process or any other, as long as its decision is retained."""
        self._require_own_context()
        if not is_gid(gid):
            raise ConfigError(f"{gid!r} is not a gid", hint="a gid has 26 characters, such as those of tx.gid")
        if (work := self.live.get(gid)) is not None:
            return work.outcome
        return await outcome_of(gid, self.nodes, self.in_doubt)

    async def purge(self) -> int:
        """Delete what is older than the retention; a node that is down keeps nobody else's."""
        before = gid_at(self.world.unix_ms() - int(self.settings.retention_s * 1000))
        count = 0
        # All evidence first: it is recognised by the decisions that are purged next.
        for purge in (self._purge_evidence, self._purge_decisions):
            for node in self.nodes.values():
                try:
                    count += await purge(node, before)
                except NodoubtError as error:
                    logger.info("not purged yet: %s", error)
        return count

    async def _purge_decisions(self, node: Node, before_gid: str) -> int:
        count = 0
        while node.capabilities.home:
            purged = await node.purge(before_gid, self.settings.retention_s, PURGE_BATCH)
            count += purged
            if purged < PURGE_BATCH:
                break
        return count

    async def _purge_evidence(self, node: Node, before_gid: str) -> int:
        """Delete evidence that a crash between the completion of its decision and its deletion left behind.

        Only where a complete decision is read: anything else may be evidence yet, of a home that is not even known here. It
        stays, so each page begins behind the one before.
        """
        count = 0
        while old := await node.old_evidence(before_gid, BATCH):
            for home in self.nodes.values():
                if home.capabilities.home:
                    rows = await home.decisions(old)
                    complete = [gid for gid, row in rows.items() if row.says is HomeSays.COMPLETE]
                    for gid, row in rows.items():
                        if row.says is HomeSays.ABORTED:
                            logger.error("%s was aborted, and somebody else committed its branch on %r", gid, node.name)
                    if complete:
                        await node.drop_evidence(complete)
                    count += len(complete)
            if len(old) < BATCH:
                break
            before_gid = old[-1]
        return count

    async def _check_durable(self) -> None:
        for node in self.nodes.values():
            try:
                await node.check_durable()
            except NodoubtError as error:
                logger.info("not asked again yet whether it forces its commits: %s", error)

    async def tend(self) -> float:
        """One turn of the background: forget, settle, purge what is due. Returns the seconds until the next turn."""
        try:
            if self.settings.settle:
                # Before the flush, which may need the turn of a transaction that waits for this.
                await self.clear_the_way()
            await self.flush()
            now = self.world.now()
            if self.settings.settle and now >= self._next_settle:
                self._next_settle = now + self.settings.settle_every_s
                report = await self.settle()
                for node, reason in report.unreachable.items():
                    logger.warning("settling goes on without %r: %s", node, reason)
                if self._owed:
                    self._next_settle = self.world.now() + min(1.0, self.settings.settle_every_s)
            if now >= self._next_purge:
                self._next_purge = now + self.settings.purge_every_s
                await self.purge()
                await self._check_durable()
        except NodoubtError as error:
            logger.warning("the background goes on: %s", error)
        return self.settings.forget_every_s
