"""Settling: bring what others left, and what we could not finish ourselves, to its decision.

The order of reading is a safety rule (recovery rules 1 and 3): unfinished decisions, each node's prepared list, our live
transactions, then home.
Everything found goes through the protocol's machine, with the same performer as live work. Settling is idempotent and may run
in many processes at once.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from nodoubt.engine.moments import Moment, in_time
from nodoubt.engine.performer import Adopted, Performer, Watch
from nodoubt.errors import NodeUnavailable, NodoubtError
from nodoubt.nodes.contract import DecisionRow, Node, PreparedBranch
from nodoubt.nodes.world import World
from nodoubt.protocol.ids import BranchId
from nodoubt.protocol.transaction import Transaction
from nodoubt.protocol.verdicts import Action, Age, HomeSays, NodeSays, Verdict, Whose, verdict

logger = logging.getLogger("nodoubt")
T = TypeVar("T")

#: How many gids one text names, so that packets stay far below every server's limit.
BATCH = 500
#: How many transactions are finished at once; each node's own recovery connections bound it further.
AT_ONCE = 64
#: How many unfinished decisions one round takes up from each home.
UNFINISHED_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """A branch, or a decided transaction, that is not finished, and the case of the verdict table that covers it."""

    gid: str
    branch: int
    node: str
    home: str
    age_s: float
    case: str
    why: str


@dataclass(slots=True, kw_only=True)
class SettleReport:
    """What one round of settling did."""

    committed: int = 0
    rolled_back: int = 0
    completed: int = 0
    #: Branches that were left to their owners.
    young: int = 0
    waiting: list[Doubt] = field(default_factory=list)
    strays: list[Doubt] = field(default_factory=list)
    unreachable: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def settled(self) -> int:
        """Branches brought to their decision."""
        return self.committed + self.rolled_back


class AnsweredHome:
    """Home, whose answer to a probe of many gids is known already."""

    def __init__(self, home: Node, says: HomeSays) -> None:
        self._home = home
        self._says = says

    async def probe(self, gids: Sequence[str], in_time: Callable[[], bool]) -> Mapping[str, HomeSays]:
        return dict.fromkeys(gids, self._says)

    async def decisions(self, gids: Sequence[str]) -> Mapping[str, DecisionRow]:
        return await self._home.decisions(gids)


class Settler:
    """One round after another over the nodes of a manager."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        world: World,
        live: Callable[[str], bool],
        watch: Watch | None,
        retention_s: float,
    ) -> None:
        self._nodes = nodes
        self._world = world
        self._live = live
        self._watch = watch
        self._retention_s = retention_s
        #: Branches, and gids of unfinished decisions -> when a round saw them first.
        self._first_seen: dict[BranchId | str, float] = {}
        self._reported: set[tuple[str, int]] = set()
        #: Rounds, and the cases of one round, may run in several threads; they share what is guarded here.
        self._lock = threading.Lock()

    async def round(
        self, *, grace_s: float, owed: Collection[str] = (), progress: Callable[[int, int], None] | None = None
    ) -> SettleReport:
        """Settle everything that is older than the grace period, and the ``owed`` gids whatever their age."""
        started = self._world.now()
        report = SettleReport()
        found = await self._look(report, grace_s, owed)
        done = 0
        cases = list(found.values())
        for first in range(0, len(cases), AT_ONCE):
            chunk = cases[first : first + AT_ONCE]
            await self._world.together([self._settle(case, report) for case in chunk])
            done += len(chunk)
            if progress is not None:
                progress(done, len(cases))
        await self._complete([case for case in cases if case.is_complete], report)
        report.seconds = self._world.now() - started
        return report

    async def clear(self, branch: BranchId, node: str, seen: Moment) -> None:
        """Settle one branch that was there then and whose owner is known to be gone, without looking at anything else."""
        if self._live(branch.gid):
            return
        report = SettleReport()
        case = _Case(gid=branch.gid, home=branch.home, seen=seen)
        case.prepared[branch.branch] = (node, PreparedBranch(id=branch, age_s=0.0, ownerless=True))
        await self._ask_homes([case], probing=True)
        self._judge(case, Age.RIPE, report)
        await self._settle(case, report)

    async def look(self) -> SettleReport:
        """What is in doubt, without touching it: homes are read, not probed."""
        report = SettleReport()
        cases = await self._look(report, 0, (), probing=False)
        report.waiting = [
            # Nothing was inserted by looking: the verdict is what settling would find.
            replace(doubt, case="undecided", why="home holds no decision: settling aborts it there and rolls it back")
            if case.says is HomeSays.FRESH and case.verdicts[doubt.branch].action is Action.ROLL_BACK
            else doubt
            for case in cases.values()
            for doubt in case.doubts
        ]
        return report

    async def _look(
        self, report: SettleReport, grace_s: float, owed: Collection[str], *, probing: bool = True
    ) -> dict[str, _Case]:
        # The order of reading is the proof: a participant of a decision that was read is prepared or finished by the time
        # that its node is listed; a live transaction that is not listed yet is not touched; and home is asked last.
        seen = Moment.of(self._world)
        unfinished = await self._unfinished(report)
        cases = {
            row.gid: _Case(gid=row.gid, home=home, seen=seen, row=row)
            for home, rows in unfinished.items()
            for row in rows
        }
        listed = await self._listed(report)
        self._see([*cases, *(branch.id for branches in listed.values() for branch in branches)])
        for node, branches in listed.items():
            for branch in branches:
                case = cases.setdefault(branch.id.gid, _Case(gid=branch.id.gid, home=branch.id.home, seen=seen))
                case.prepared[branch.id.branch] = (node, branch)
        cases = {gid: case for gid, case in cases.items() if not self._live(gid)}
        ripe = {
            gid for gid, case in cases.items() if gid in owed or case.is_ownerless or case.age_s(self._seen) >= grace_s
        }
        asked = [case for gid, case in cases.items() if gid in ripe]
        await self._ask_homes(asked, probing=probing)
        await self._ask_evidence(report, asked)
        # Evidence is dropped behind a decision that was marked complete meanwhile.
        await self._ask_homes([case for case in asked if case.is_suspect], probing=False)
        for case in cases.values():
            self._judge(case, Age.RIPE if case.gid in ripe else Age.YOUNG, report)
        return cases

    async def _each(self, nodes: Iterable[Node], ask: Callable[[Node], Any], report: SettleReport) -> dict[str, Any]:
        """Ask nodes at once; those that cannot answer are named in the report and missing from the result."""

        async def one(node: Node) -> tuple[str, Any]:
            try:
                return node.name, await ask(node)
            except NodoubtError as error:
                report.unreachable[node.name] = error.message
                return node.name, error

        answers = await self._world.together([one(node) for node in nodes])
        return {name: answer for name, answer in answers if not isinstance(answer, NodoubtError)}

    async def _listed(self, report: SettleReport) -> dict[str, Sequence[PreparedBranch]]:
        listings = await self._each(self._nodes.values(), lambda node: node.prepared(), report)
        report.foreign = {name: listing.foreign for name, listing in listings.items() if listing.foreign}
        return {name: listing.ours for name, listing in listings.items()}

    def _see(self, found: Sequence[BranchId | str]) -> None:
        now = self._world.now()
        with self._lock:
            before = self._first_seen
            self._first_seen = {what: before.get(what, now) for what in found}

    def _seen(self, what: BranchId | str) -> float:
        return self._world.now() - self._first_seen.get(what, self._world.now())

    async def _unfinished(self, report: SettleReport) -> dict[str, Sequence[DecisionRow]]:
        homes = [node for node in self._nodes.values() if node.capabilities.home]
        return await self._each(homes, lambda node: node.unfinished(UNFINISHED_MAX), report)

    async def _ask_homes(self, cases: Iterable[_Case], *, probing: bool) -> None:
        by_home: dict[tuple[str, bool], list[_Case]] = defaultdict(list)
        for case in cases:
            # A decision that was read is read again, not probed: purged since, it would get a tombstone.
            by_home[case.home, probing and case.row is None].append(case)

        async def ask(home: str, probed: bool, asked: Sequence[_Case]) -> None:
            node = self._nodes.get(home)
            says: Mapping[str, HomeSays] = {}
            fallback = HomeSays.STRANGER
            if node is not None:
                gids = [case.gid for case in asked]
                fallback = HomeSays.BROKEN if probed else HomeSays.FRESH
                try:
                    if probed:
                        # Who slept meanwhile asks in the next round.
                        seen = [case.seen for case in asked]
                        says = await node.probe(gids, in_time(seen, self._world, self._retention_s))
                    else:
                        says = {gid: row.says for gid, row in (await node.decisions(gids)).items()}
                except NodoubtError:
                    fallback = HomeSays.SILENT
            for case in asked:
                case.says = says.get(case.gid, fallback)
                if case.says is HomeSays.FRESH and case.row is not None:
                    # Purged since, or seen before it was on disk and lost: the next round tells which.
                    case.says = HomeSays.SILENT

        batches = [(*key, asked[i : i + BATCH]) for key, asked in by_home.items() for i in range(0, len(asked), BATCH)]
        await self._world.together([ask(*batch) for batch in batches])

    async def _ask_evidence(self, report: SettleReport, cases: Sequence[_Case]) -> None:
        """For decided transactions: of the participants that are not listed, which left their evidence?"""
        asked: dict[str, list[tuple[str, int]]] = defaultdict(list)
        by_gid = {case.gid: case for case in cases}
        for case in cases:
            for branch, node in case.participants.items():
                if branch not in case.prepared:
                    asked[node].append((case.gid, branch))
        for name, pairs in asked.items():
            for first in range(0, len(pairs), BATCH):
                batch = pairs[first : first + BATCH]
                try:
                    if name not in self._nodes or name in report.unreachable:
                        raise NodeUnavailable(f"node {name!r} is not configured or did not answer")
                    there = await self._nodes[name].applied(batch)
                except NodoubtError as error:
                    report.unreachable.setdefault(name, error.message)
                    continue
                for gid, branch in batch:
                    says = NodeSays.APPLIED if (gid, branch) in there else NodeSays.ABSENT
                    by_gid[gid].absent[branch] = says

    def _judge(self, case: _Case, age: Age, report: SettleReport) -> None:
        """Find each branch's verdict."""
        nodes = {number: node for number, (node, _) in case.prepared.items()} | dict(case.participants)
        if case.says is HomeSays.BROKEN and not nodes:
            # Nobody can tell which branches it binds; it is shown as home's own (recovery rule 16).
            nodes, case.absent[0] = {0: case.home}, NodeSays.ABSENT
        for number, node in sorted(nodes.items()):
            says = NodeSays.PREPARED if number in case.prepared else case.absent.get(number, NodeSays.SILENT)
            found = verdict(case.says, says, Whose.OURS, age)
            case.verdicts[number] = found
            doubt = Doubt(
                gid=case.gid,
                branch=number,
                node=node,
                home=case.home,
                age_s=case.age_s(self._seen),
                case=found.label,
                why=found.why,
            )
            if found.action is Action.REPORT:
                report.strays.append(doubt)
                if (case.gid, number) not in self._reported:
                    self._reported.add((case.gid, number))
                    logger.error("%s branch %d on %r: %s", case.gid, number, node, found.why)
            elif age is Age.YOUNG:
                # A participant of a decision that its node does not list is finished, and only not marked complete yet.
                was_listed = node in self._nodes and node not in report.unreachable
                report.young += number in case.prepared or not was_listed
            elif found.action is Action.WAIT:
                report.waiting.append(doubt)
            if found.action is not Action.DONE:
                case.doubts.append(doubt)

    async def _settle(self, case: _Case, report: SettleReport) -> None:
        """Take one transaction through the machine."""
        ripe = {
            number: case.prepared[number]
            for number, found in case.verdicts.items()
            if found.action in (Action.COMMIT, Action.ROLL_BACK)
        }
        if not ripe:
            return
        machine, orders = Transaction.recovered(case.gid, {number: node for number, (node, _) in ripe.items()})
        home: Any = AnsweredHome(self._nodes[case.home], case.says)
        performer = Performer(machine, home, self._world, self._watch)
        performer.adopted = {number: Adopted(self._nodes[node], branch.id) for number, (node, branch) in ripe.items()}
        await performer.follow(orders)
        outcome = machine.outcome
        finished = len(ripe) - len(outcome.pending) - len(outcome.strays)
        with self._lock:
            if outcome.state == "committed":
                report.committed += finished
            else:
                report.rolled_back += finished
        case.owes = bool(outcome.pending or outcome.strays)
        for doubt in case.doubts:
            if doubt.node in outcome.pending:
                report.waiting.append(doubt)
            elif doubt.node in outcome.strays:
                report.strays.append(doubt)

    async def _complete(self, cases: Sequence[_Case], report: SettleReport) -> None:
        by_home: dict[str, list[_Case]] = defaultdict(list)
        for case in cases:
            by_home[case.home].append(case)
        for home, done in by_home.items():
            for first in range(0, len(done), BATCH):
                batch = {case.gid: case.participants for case in done[first : first + BATCH]}
                try:
                    await complete(self._nodes, home, batch)
                    report.completed += len(batch)
                except NodoubtError as error:
                    report.unreachable.setdefault(home, error.message)


@dataclass(slots=True, kw_only=True)
class _Case:
    """What was found of one transaction."""

    gid: str
    home: str
    #: Before anything else was asked about it.
    seen: Moment
    says: HomeSays = HomeSays.SILENT
    row: DecisionRow | None = None
    prepared: dict[int, tuple[str, PreparedBranch]] = field(default_factory=dict)
    absent: dict[int, NodeSays] = field(default_factory=dict)
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    doubts: list[Doubt] = field(default_factory=list)
    owes: bool = False

    @property
    def participants(self) -> Mapping[int, str]:
        return self.row.participants if self.row else {}

    @property
    def is_suspect(self) -> bool:
        """Whether a branch seems to have been rolled back against a decision that was incomplete when home was asked."""
        return self.says is HomeSays.COMMITTED and NodeSays.ABSENT in self.absent.values()

    @property
    def is_complete(self) -> bool:
        """Whether every branch that the decision binds is known to be finished, so that it may be marked so."""
        finished = all(v.action in (Action.DONE, Action.COMMIT) for v in self.verdicts.values())
        return self.row is not None and self.says is HomeSays.COMMITTED and finished and not self.owes

    @property
    def is_ownerless(self) -> bool:
        """Whether the process that ran it is known to have lost a prepared branch's session: it will not finish it."""
        return any(branch.ownerless for _, branch in self.prepared.values())

    def age_s(self, seen: Callable[[BranchId | str], float]) -> float:
        """The age of the youngest thing seen of it, each by its node's clock, which may jump, or since we first saw it."""
        ages = [max(branch.age_s, seen(branch.id)) for _, branch in self.prepared.values()]
        return min([*ages, max(self.row.age_s, seen(self.gid))] if self.row else ages, default=0.0)


async def complete(nodes: Mapping[str, Node], home: str, finished: Mapping[str, Mapping[int, str]]) -> None:
    """Mark decisions complete, durably, and only then drop the evidence that they were carried out.

    Raises NodeUnavailable of home alone: evidence that stays is purged one day.
    """
    await nodes[home].complete(list(finished))
    by_node: dict[str, list[str]] = defaultdict(list)
    for gid, participants in finished.items():
        for node in dict.fromkeys(participants.values()):
            if node in nodes:
                by_node[node].append(gid)
    for node, gids in by_node.items():
        try:
            await nodes[node].drop_evidence(gids)
        except NodoubtError as error:
            logger.info("evidence stays: %s", error)
