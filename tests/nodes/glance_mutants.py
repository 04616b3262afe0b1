"""Broken in-memory nodes that tell of stillness what is not so."""

from __future__ import annotations

from collections.abc import Sequence

from nodoubt.nodes.memory import MemorySession
from nodoubt.nodes.sql_branch import SqlBranch
from tests.nodes.mutants import BrokenDatabase, BrokenServer, Mutant


class WritersAreOverlooked(BrokenServer):
    """Who has written and not prepared is not seen."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_glance(self, session: int) -> str:
            opened, self._open = self._open, {session: self._open[session]}
            told = super()._do_glance(session)
            self._open = opened
            return told


class PreparedAreOverlooked(BrokenServer):
    """What is prepared is not seen."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_glance(self, session: int) -> str:
            prepared, self.prepared = self.prepared, {}
            told = super()._do_glance(session)
            self.prepared = prepared
            return told


class AlwaysStill(BrokenServer):
    """Nothing is ever said to move."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_still(self, session: int) -> bool:
            return True


class PreparingMovesNothing(BrokenServer):
    """Only commits are noticed."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_prepare(self, session: int, name: str) -> str:
            tag = super()._do_prepare(session, name)
            self._history.moves -= 1
            return tag


class NeverStill(BrokenServer):
    """All that moves is said to."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_still(self, session: int) -> bool:
            return False


class QuietIsUnmoved(BrokenServer):
    """A node that nobody works on is said to be where it was."""

    class database_class(BrokenDatabase):  # noqa: N801
        def _do_glance(self, session: int) -> str:
            return super()._do_glance(session).replace("QUIET", "UNMOVED")


class GlanceStays(Mutant):
    """Behind a glance no other snapshot is taken."""

    class branch_class(SqlBranch):  # noqa: N801
        async def take_snapshot(self) -> None:
            if self._stillness is None:
                await super().take_snapshot()


class GlanceIsLeftForGood(Mutant):
    """Behind a glance the branch sees whatever is committed."""

    class branch_class(SqlBranch):  # noqa: N801
        async def take_snapshot(self) -> None:
            await super().take_snapshot()
            if self._stillness is not None and isinstance(self._session, MemorySession):
                work = self._session.database._open[self._session.number]
                if work is not None:
                    work.snapshot = None


#: Each with the clause that is there to catch it.
GLANCES: Sequence[tuple[type[Mutant], str]] = (
    (WritersAreOverlooked, "test_a_glance_is_never_too_bold"),
    (PreparedAreOverlooked, "test_a_glance_is_never_too_bold"),
    (AlwaysStill, "test_a_glance_is_never_too_bold"),
    (PreparingMovesNothing, "test_a_glance_is_never_too_bold"),
    (NeverStill, "test_a_glance_is_never_too_bold"),
    (QuietIsUnmoved, "test_a_glance_is_never_too_bold"),
    (GlanceStays, "test_a_glance_gives_way_to_a_snapshot"),
    (GlanceIsLeftForGood, "test_a_glance_gives_way_to_a_snapshot"),
)
