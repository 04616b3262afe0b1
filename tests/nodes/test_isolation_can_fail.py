"""The clauses of gates and terms can fail: each broken in-memory node here is caught by the clause that is there for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from nodoubt.errors import NodeUnavailable
from nodoubt.nodes.contract import Gate, Isolation, Listing, Node
from nodoubt.nodes.failures import StatementFailed
from nodoubt.nodes.memory import MemoryDialect, MemoryNode
from nodoubt.nodes.memory_calls import CHANGED, LOCKED, Refused
from nodoubt.nodes.memory_locks import MustWait, Place
from nodoubt.nodes.memory_packets import BRANCH, DECISION
from nodoubt.testing.conformance.gates import GateClauses
from nodoubt.testing.conformance.harness import PATIENCE_S
from nodoubt.testing.conformance.isolation import IsolationClauses
from tests.nodes.glance_mutants import GLANCES
from tests.nodes.mutants import BrokenDatabase, BrokenGate, BrokenLocks, BrokenServer, Mutant, why_broken


class GateHoldsNobody(BrokenServer):
    """A closed gate lets everybody through."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_freeze(self, session: int, table: str, idle_s_max: float) -> None:
            pass


class ClosingWaitsForNobody(BrokenServer):
    """The gate is closed although somebody decides."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_freeze(self, session: int, table: str, idle_s_max: float) -> None:
            self._locks._frozen.setdefault(table, {})[session] = idle_s_max, self.clock()


class ClosingNeverGivesUp(BrokenServer):
    """Closing waits for as long as the node's other calls."""

    class database_class(BrokenDatabase):  # noqa: N801
        def lock_wait_s(self, session: int) -> float:
            return 2 * PATIENCE_S


class GivingUpKeepsTheGate(BrokenServer):
    """Who waited in vain leaves the gate closed."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_freeze(self, session: int, table: str, idle_s_max: float) -> None:
            try:
                super()._do_freeze(session, table, idle_s_max)
            except MustWait:
                self._locks.freeze_for_ever(table)
                raise


class FirstOpenerOpensForAll(BrokenServer):
    """With one opener all are gone."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_commit(self, session: int) -> str:
            self._locks.thaw(DECISION)
            return super()._do_commit(session)


class OpenersExclude(BrokenServer):
    """One opener at a time."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_freeze(self, session: int, table: str, idle_s_max: float) -> None:
            if self._locks.is_frozen(table):
                raise Refused(LOCKED, "somebody else is opening")
            super()._do_freeze(session, table, idle_s_max)


class GateHoldsEverything(BrokenServer):
    """Nobody prepares behind a closed gate."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_freeze(self, session: int, table: str, idle_s_max: float) -> None:
            super()._do_freeze(session, table, idle_s_max)
            self._locks.freeze_for_ever(BRANCH)


class GateSurvivesItsHolder(BrokenServer):
    """After a crash the gate is closed still."""

    class database_class(BrokenDatabase):  # noqa: N801
        def stop(self) -> None:
            was_frozen = self._locks.is_frozen(DECISION)
            super().stop()
            if was_frozen:
                self._locks.freeze_for_ever(DECISION)


class OpenersMayStop(BrokenServer):
    """No limit for an opener that stops in the middle."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_freeze(self, session: int, table: str, idle_s_max: float) -> None:
            super()._do_freeze(session, table, math.inf)


class GatesCostSessions(BrokenServer):
    """The server has room for a few gates, and never makes room again."""

    class database_class(BrokenDatabase):  # noqa: N801
        gates = 8

        def _do_freeze(self, session: int, table: str, idle_s_max: float) -> None:
            self.gates -= 1
            if self.gates < 0:
                raise Refused(LOCKED, "no room")
            super()._do_freeze(session, table, idle_s_max)


class LossIsSilent(BrokenGate):
    """A lost gate is opened as if nothing had happened."""

    async def reopen(self, gate: Gate) -> None:
        try:
            await gate.reopen()
        except NodeUnavailable:
            return


class CommittedMeansDecided(BrokenGate):
    """Tombstones are told, too."""

    async def committed(self, node: Node, gate: Gate, gids: Sequence[str]) -> set[str]:
        return set(await node.decisions(gids))


class UndecidedIsTold(BrokenGate):
    """What nobody decided is told as committed."""

    async def committed(self, node: Node, gate: Gate, gids: Sequence[str]) -> set[str]:
        rows = await node.decisions(gids)
        return await gate.committed(gids) | {gid for gid in gids if gid not in rows}


class AtomicRefused(Mutant):
    """Even the lowest level is refused."""

    class node_class(MemoryNode):  # noqa: N801
        def refusal(self, isolation: Isolation, *, read_only: bool) -> str:
            return "not today"


class LevelNotThere(BrokenServer):
    """A level is not refused, and fails."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_lock_reads(self, session: int) -> None:
            raise Refused(LOCKED, "not today")


class GateListsNothing(BrokenGate):
    """What is prepared is not seen from behind the gate."""

    async def prepared(self, gate: Gate) -> Listing:
        return Listing(ours=())


class SnapshotAtBegin(BrokenServer):
    """The snapshot is taken with the first packet."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_begin(self, session: int, read_only: bool = False, lock_wait_s: float = 0.0) -> str:
            tag = super()._do_begin(session, read_only, lock_wait_s)
            super()._do_snapshot(session)
            return tag

        def _do_snapshot(self, session: int) -> None:
            """It is there."""


class SnapshotAtFirstLook(BrokenServer):
    """The snapshot is taken when it is needed first."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_snapshot(self, session: int) -> None:
            self._work(session).savepoints.append(("snapshot is due", {}))

        def _do_get(self, session: int, table: str, key: str) -> Any:
            work = self._work(session)
            if ("snapshot is due", {}) in work.savepoints:
                work.savepoints.clear()
                super()._do_snapshot(session)
            return super()._do_get(session, table, key)


class UpdatesAreLost(BrokenServer):
    """A snapshot overwrites what it does not show."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _write(self, session: int, place: Place, row: Any) -> None:
            work = self._work(session)
            snapshot, work.snapshot = work.snapshot, None
            super()._write(session, place, row)
            work.snapshot = snapshot


class LostUpdateIsFinal(Mutant):
    """A refused overwriting looks as if it could never work."""

    class dialect_class(MemoryDialect):  # noqa: N801
        def is_retryable(self, failure: StatementFailed) -> bool:
            return failure.code != CHANGED and super().is_retryable(failure)


class SharedIsNew(BrokenServer):
    """Sharing opens a snapshot of its own."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_share(self, session: int, other: int) -> None:
            self._do_snapshot(session)


class ReadsGo(BrokenServer):
    """What a serializable branch read can be written by others."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_lock_reads(self, session: int) -> None:
            pass


class WaitIsUnbounded(BrokenServer):
    """The terms' limit is forgotten."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_begin(self, session: int, read_only: bool = False, lock_wait_s: float = 0.0) -> str:
            return super()._do_begin(session, read_only)


class WritersPass(BrokenServer):
    """Nobody waits for who writes."""

    class database_class(BrokenDatabase):  # noqa: N801
        class _Open(BrokenLocks):
            def write(self, holder: int | str, place: Place) -> None:
                pass

        def __init__(self, clock: Any) -> None:
            super().__init__(clock)
            self._locks = self._Open(clock, self.end)


class ReadersExclude(BrokenServer):
    """Two serializable branches cannot read the same."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_get(self, session: int, table: str, key: str) -> Any:
            if self._work(session).locks_reads:
                self._locks.write(session, (table, key))
            return super()._do_get(session, table, key)


class PrepareLetsGo(BrokenServer):
    """A prepared branch has no locks."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_prepare(self, session: int, name: str) -> str:
            tag = super()._do_prepare(session, name)
            self._locks.free(name)
            return tag


class CrashLetsGo(BrokenServer):
    """Prepared branches survive a crash, their locks do not."""

    class database_class(BrokenDatabase):  # noqa: N801
        def stop(self) -> None:
            super().stop()
            self._locks = BrokenLocks(self.clock, self.end)


class TermsStay(BrokenServer):
    """What a branch asked for is what the next one on its session gets."""

    class database_class(BrokenDatabase):  # noqa: N801
        def __init__(self, clock: Any) -> None:
            super().__init__(clock)
            self.waits_s: dict[int, float] = {}

        def _do_begin(self, session: int, read_only: bool = False, lock_wait_s: float = 0.0) -> str:
            self.waits_s[session] = lock_wait_s or self.waits_s.get(session, 0.0)
            return super()._do_begin(session, read_only, self.waits_s[session])


class SnapshotStays(BrokenServer):
    """A session that had a snapshot once has one ever after."""

    class database_class(BrokenDatabase):  # noqa: N801
        def __init__(self, clock: Any) -> None:
            super().__init__(clock)
            self.used: set[int] = set()

        def _do_snapshot(self, session: int) -> None:
            self.used.add(session)
            super()._do_snapshot(session)

        def _do_begin(self, session: int, read_only: bool = False, lock_wait_s: float = 0.0) -> str:
            tag = super()._do_begin(session, read_only, lock_wait_s)
            if session in self.used:
                super()._do_snapshot(session)
            return tag


#: Each mutant with a clause that is there to catch it.
MUTANTS: Sequence[tuple[type[Mutant], str]] = (
    *GLANCES,
    (GateHoldsNobody, "test_a_closed_gate_holds_decisions_off"),
    (ClosingWaitsForNobody, "test_closing_waits_for_who_decides"),
    (ClosingNeverGivesUp, "test_closing_waits_for_who_decides"),
    (GivingUpKeepsTheGate, "test_a_closing_that_gave_up_leaves_the_gate_open"),
    (FirstOpenerOpensForAll, "test_openers_share_a_closing"),
    (OpenersExclude, "test_openers_share_a_closing"),
    (GateHoldsEverything, "test_all_else_goes_on_behind_a_closed_gate"),
    (GateSurvivesItsHolder, "test_a_lost_gate_is_told"),
    (OpenersMayStop, "test_a_stopped_opener_loses_the_gate"),
    (GatesCostSessions, "test_no_gate_costs_a_session"),
    (LossIsSilent, "test_a_lost_gate_is_told"),
    (CommittedMeansDecided, "test_a_gate_tells_what_is_prepared_and_committed"),
    (UndecidedIsTold, "test_a_gate_tells_what_is_prepared_and_committed"),
    (GateListsNothing, "test_a_gate_tells_what_is_prepared_and_committed"),
    (SnapshotAtBegin, "test_a_snapshot_is_taken_when_it_is_told"),
    (AtomicRefused, "test_a_node_begins_what_it_does_not_refuse"),
    (LevelNotThere, "test_a_node_begins_what_it_does_not_refuse"),
    (SnapshotAtFirstLook, "test_a_snapshot_is_taken_when_it_is_told"),
    (UpdatesAreLost, "test_a_snapshot_overwrites_nothing_that_it_does_not_show"),
    (LostUpdateIsFinal, "test_a_snapshot_overwrites_nothing_that_it_does_not_show"),
    (SharedIsNew, "test_a_snapshot_is_shared"),
    (ReadsGo, "test_serializable_reads_stay"),
    (WaitIsUnbounded, "test_serializable_reads_stay"),
    (WritersPass, "test_serializable_writes_exclude"),
    (ReadersExclude, "test_serializable_branches_share_what_they_read"),
    (PrepareLetsGo, "test_a_prepared_branch_keeps_its_locks"),
    (CrashLetsGo, "test_a_prepared_branch_keeps_its_locks"),
    (TermsStay, "test_terms_end_with_their_branch"),
    (SnapshotStays, "test_terms_end_with_their_branch"),
    (ClosingWaitsForNobody, "test_closing_shows_what_was_decided"),
    (SnapshotAtFirstLook, "test_a_snapshot_that_writes_is_taken_when_it_is_told"),
)


@pytest.mark.parametrize(("mutant", "clause"), MUTANTS, ids=lambda case: getattr(case, "__name__", None))
def test_a_broken_node_is_caught(mutant: type[Mutant], clause: str) -> None:
    assert why_broken(clause, mutant()) is not None


@pytest.mark.parametrize("clause", sorted({clause for _, clause in MUTANTS}))
def test_the_same_clause_passes_unbroken(clause: str) -> None:
    assert why_broken(clause, Mutant()) is None


def test_each_clause_has_a_mutant() -> None:
    there = {name for clauses in (GateClauses, IsolationClauses) for name in dir(clauses) if name.startswith("test_")}
    assert {clause for _, clause in MUTANTS} == there
