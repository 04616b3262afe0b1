"""The conformance suite: does an adapter keep what :mod:`nodoubt.nodes.contract` promises? For authors of adapters, under pytest.

Say in a :class:`Harness` how your database is spoken to, and give pytest a fixture of that name::

    class MyHarness(Harness):
        def node(self, name="here", domain="conformance", **settings): ...   # a new node object on the one database
        async def put(self, connection, key, value): ...                     # write a row by your own SQL
        ...

    class TestMyNode(NodeConformance):
        @pytest.fixture
        def harness(self, tmp_path):
            yield MyHarness(tmp_path)                                        # a fresh, empty database

Each test is one clause of the contract's prose. Nothing is skipped: where a clause depends on a declared capability, it demands
what an adapter without it has to do instead. ``clauses()`` lists them for running without pytest.
"""

from __future__ import annotations

from collections.abc import Sequence

from nodoubt.testing.conformance.connections import ConnectionClauses
from nodoubt.testing.conformance.decisions import DecisionClauses
from nodoubt.testing.conformance.gates import GateClauses
from nodoubt.testing.conformance.harness import Harness
from nodoubt.testing.conformance.isolation import IsolationClauses
from nodoubt.testing.conformance.recovery import RecoveryClauses
from nodoubt.testing.conformance.setup import SetupClauses
from nodoubt.testing.conformance.votes import VoteClauses

__all__ = ["Harness", "NodeConformance", "clauses"]


class NodeConformance(
    VoteClauses, DecisionClauses, RecoveryClauses, GateClauses, IsolationClauses, ConnectionClauses, SetupClauses
):
    """All clauses; subclass it with a fixture ``harness``."""


def clauses() -> Sequence[str]:
    """The names of all clauses, which are methods that take a harness."""
    return [name for name in dir(NodeConformance) if name.startswith("test_")]
