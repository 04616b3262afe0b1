"""A suite that cannot fail proves nothing: each broken in-memory node here is caught by at least one clause."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from nodoubt.nodes.contract import Answer, DecisionRow, Ended, Listing, PreparedBranch, Said, always
from nodoubt.nodes.dialect import Session
from nodoubt.nodes.failures import StatementFailed
from nodoubt.nodes.memory import MemoryDialect, MemoryNode
from nodoubt.nodes.memory_database import MemoryDatabase
from nodoubt.nodes.memory_packets import BRANCH, DECISION
from nodoubt.nodes.sql_branch import SqlBranch
from nodoubt.protocol.ids import BranchId, parse_text
from nodoubt.protocol.verdicts import HomeSays
from nodoubt.testing.conformance import clauses
from tests.nodes.mutants import Mutant, why_broken


class YesWithoutKeeping(Mutant):
    """Prepare says yes and rolls back."""

    class dialect_class(MemoryDialect):  # noqa: N801
        prepared_tag = "ROLLBACK"

        def prepare(self, branch: BranchId) -> str:
            return "undo"


class YesAfterFailure(Mutant):
    """Prepare forgets that a statement failed."""

    class branch_class(SqlBranch):  # noqa: N801
        __slots__ = ()

        async def prepare(self) -> Answer:
            self._guard.failure = None
            return await super().prepare()


class ReleaseAfterFailure(Mutant):
    """Release forgets that a statement failed."""

    class branch_class(SqlBranch):  # noqa: N801
        __slots__ = ()

        async def release(self) -> Answer:
            self._guard.failure = None
            return await super().release()


class UnknownToldAsNo(Mutant):
    """A lost answer is told as a no."""

    class branch_class(SqlBranch):  # noqa: N801
        __slots__ = ()

        async def prepare(self) -> Answer:
            answer = await super().prepare()
            return Answer(said=Said.NO, reason="lost") if answer.said is Said.UNKNOWN else answer


class UnknownToldAsYes(Mutant):
    """A vote whose answer was lost is a yes."""

    class branch_class(SqlBranch):  # noqa: N801
        __slots__ = ()

        async def prepare(self) -> Answer:
            answer = await super().prepare()
            return replace(answer, said=Said.YES) if answer.said is Said.UNKNOWN else answer


class DecisionLostToldAsNo(Mutant):
    """A lost decision is told as a no."""

    class branch_class(SqlBranch):  # noqa: N801
        __slots__ = ()

        async def decide(self, participants: Mapping[int, str]) -> Answer:
            answer = await super().decide(participants)
            return Answer(said=Said.NO, reason="lost") if answer.said is Said.UNKNOWN else answer


class FenceIgnored(Mutant):
    """The block's connection goes on after its end."""

    class branch_class(SqlBranch):  # noqa: N801
        __slots__ = ()

        def fence(self, error: BaseException | None = None) -> None:
            pass


class SessionKept(Mutant):
    """Released branches never give their place in the pool back."""

    class branch_class(SqlBranch):  # noqa: N801
        __slots__ = ()

        async def release(self) -> Answer:
            return Answer(said=Said.YES)


class KeyNotUnique(Mutant):
    """Two decisions for one gid are taken; the last one wins."""

    def __init__(self) -> None:
        super().__init__()

        class Overwriting(MemoryDatabase):
            def _do_insert(self, session: int, table: str, key: str, row: Any) -> None:
                self._do_put(session, table, key, row)

        self.database = Overwriting(self.world.now)


class ConflictToldAsNo(Mutant):
    """A tombstone that was first is not recognised."""

    class dialect_class(MemoryDialect):  # noqa: N801
        def is_conflict(self, failure: StatementFailed) -> bool:
            return False


class ProbeAlwaysFresh(Mutant):
    """Every probe claims the tombstone as its own."""

    class dialect_class(MemoryDialect):  # noqa: N801
        async def probe(self, session: Session, gids: Sequence[str], until_s: float) -> Mapping[str, HomeSays]:
            return dict.fromkeys(await super().probe(session, gids, until_s), HomeSays.FRESH)


class ProbeWithoutTombstone(Mutant):
    """A probe only looks."""

    class dialect_class(MemoryDialect):  # noqa: N801
        async def probe(self, session: Session, gids: Sequence[str], until_s: float) -> Mapping[str, HomeSays]:
            rows = await self.decisions(session, gids)
            return {gid: rows[gid].says if gid in rows else HomeSays.FRESH for gid in gids}


class ProbeAtAnyTime(Mutant):
    """A probe never comes too late."""

    class node_class(MemoryNode):  # noqa: N801
        async def probe(self, gids: Sequence[str], in_time: Callable[[], bool] = always) -> Mapping[str, HomeSays]:
            return await super().probe(gids)


class CompleteKeepsAge(Mutant):
    """The retention of a decision begins when it is made."""

    class dialect_class(MemoryDialect):  # noqa: N801
        async def decisions(self, session: Session, gids: Sequence[str]) -> Mapping[str, DecisionRow]:
            rows = await super().decisions(session, gids)
            oldest_s = max((row.age_s for row in rows.values()), default=0.0)
            return {gid: replace(row, age_s=oldest_s) for gid, row in rows.items()}


class FinishInvents(Mutant):
    """Branches that are not there are finished with success."""

    class node_class(MemoryNode):  # noqa: N801
        async def finish(self, branch: BranchId, *, commit: bool, owner: str = "") -> Ended:
            ended = await super().finish(branch, commit=commit, owner=owner)
            return Ended.DONE if ended is Ended.ABSENT else ended


class ListHides(Mutant):
    """One prepared branch is not shown."""

    class dialect_class(MemoryDialect):  # noqa: N801
        async def prepared(self, session: Session, domain: str) -> Listing:
            return Listing(ours=(await super().prepared(session, domain)).ours[1:])


class ListClaims(Mutant):
    """Branches of other domains are taken for ours."""

    class dialect_class(MemoryDialect):  # noqa: N801
        async def prepared(self, session: Session, domain: str) -> Listing:
            ids = [(parse_text(name), age_s) for name, age_s in await session.query("list")]
            return Listing(ours=tuple(PreparedBranch(id=one, age_s=age_s) for one, age_s in ids if one is not None))


class NoEvidence(Mutant):
    """Branches leave no evidence."""

    def __init__(self) -> None:
        super().__init__()

        class Forgetting(MemoryDatabase):
            def _do_put(self, session: int, table: str, key: str, row: Any) -> None:
                if table != BRANCH:
                    super()._do_put(session, table, key, row)

        self.database = Forgetting(self.world.now)


class FirstPageOnly(Mutant):
    """Whoever asks for older evidence is told of the youngest again."""

    class dialect_class(MemoryDialect):  # noqa: N801
        def old_evidence(self, before_gid: str, limit: int) -> str:
            return super().old_evidence("~", limit)


class CompleteForgets(Mutant):
    """Marking complete has no effect."""

    class dialect_class(MemoryDialect):  # noqa: N801
        def complete(self, gids: Sequence[str]) -> str:
            return "now"


class PurgeIgnoresRetention(Mutant):
    """Purging takes what is young."""

    class dialect_class(MemoryDialect):  # noqa: N801
        async def purge(self, session: Session, before_gid: str, retention_s: float, limit: int) -> int:
            return await super().purge(session, before_gid, -3600.0, limit)


class PurgeTakesOpenDecisions(Mutant):
    """Purging takes committed decisions that are not complete."""

    class dialect_class(MemoryDialect):  # noqa: N801
        async def purge(self, session: Session, before_gid: str, retention_s: float, limit: int) -> int:
            for row in await self.unfinished(session, limit):
                await session.command(self.complete([row.gid]))
            return await super().purge(session, before_gid, retention_s, limit)


class PersonOverrules(Mutant):
    """Resolving replaces a standing decision."""

    class node_class(MemoryNode):  # noqa: N801
        async def resolve(self, gid: str, *, commit: bool, reason: str) -> HomeSays:
            self.database.tables[DECISION].pop(gid, None)
            return await super().resolve(gid, commit=commit, reason=reason)


class BusyIsSilent(Mutant):
    """A key in use looks like a node that is down."""

    class dialect_class(MemoryDialect):  # noqa: N801
        def is_locked(self, failure: StatementFailed) -> bool:
            return False


class ReadersWrite(Mutant):
    """Read-only branches commit what they wrote."""

    class dialect_class(MemoryDialect):  # noqa: N801
        def begin(self, branch: BranchId, *, read_only: bool) -> str:
            return super().begin(branch, read_only=False)


class AnyDatabaseWillDo(Mutant):
    """The identity is not looked at."""

    class dialect_class(MemoryDialect):  # noqa: N801
        async def check_identity(self, session: Session, name: str, domain: str) -> None:
            pass


class SoundOnlyOnce(Mutant):
    """Asked again, a sound server is for reading only."""

    class node_class(MemoryNode):  # noqa: N801
        async def check_durable(self) -> None:
            self.home_refusal = "it is not looked at twice"


class CrashLosesPrepared(Mutant):
    """Promises do not survive a crash."""

    async def restart(self) -> None:
        self.database.prepared.clear()
        await super().restart()


#: Each mutant with a clause that is there to catch it.
MUTANTS: Mapping[type[Mutant], str] = {
    YesWithoutKeeping: "test_yes_survives",
    YesAfterFailure: "test_prepare_after_a_failed_statement_is_no",
    ReleaseAfterFailure: "test_release_after_a_failed_statement_is_no",
    UnknownToldAsNo: "test_a_vote_without_answer_is_unknown",
    UnknownToldAsYes: "test_abandon_during_the_vote_is_truthful",
    DecisionLostToldAsNo: "test_a_decision_without_answer_is_what_home_says",
    FenceIgnored: "test_a_fence_stops_the_connection",
    SessionKept: "test_no_ending_costs_the_pool_a_place",
    KeyNotUnique: "test_decide_after_a_tombstone_is_a_conflict",
    ConflictToldAsNo: "test_decide_after_a_tombstone_is_a_conflict",
    ProbeAlwaysFresh: "test_a_probe_inserts_one_tombstone",
    ProbeWithoutTombstone: "test_a_probe_inserts_one_tombstone",
    ProbeAtAnyTime: "test_a_probe_that_comes_too_late_inserts_nothing",
    CompleteKeepsAge: "test_a_decision_is_young_again_when_it_is_complete",
    FinishInvents: "test_a_branch_that_never_was_is_absent",
    ListHides: "test_the_list_shows_exactly_what_is_prepared",
    ListClaims: "test_foreign_branches_are_counted_and_left_alone",
    NoEvidence: "test_anybody_can_commit_a_branch",
    FirstPageOnly: "test_old_evidence_is_told_in_pages",
    CompleteForgets: "test_complete_is_for_ever",
    PurgeIgnoresRetention: "test_purge_keeps_what_is_young_or_incomplete",
    PurgeTakesOpenDecisions: "test_purge_keeps_what_is_young_or_incomplete",
    PersonOverrules: "test_a_person_overrules_nothing",
    BusyIsSilent: "test_a_key_in_use_is_busy",
    ReadersWrite: "test_a_reader_never_commits_a_write",
    AnyDatabaseWillDo: "test_another_node_is_refused",
    SoundOnlyOnce: "test_a_node_says_what_it_is",
    CrashLosesPrepared: "test_yes_survives",
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_broken_node_is_caught(mutant: type[Mutant]) -> None:
    assert why_broken(MUTANTS[mutant], mutant()) is not None


@pytest.mark.parametrize("clause", sorted(set(MUTANTS.values())))
def test_the_same_clause_passes_unbroken(clause: str) -> None:
    assert why_broken(clause, Mutant()) is None


def test_all_clauses_are_listed() -> None:
    assert set(MUTANTS.values()) < set(clauses())
