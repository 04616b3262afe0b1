"""Branches of several nodes, opened at one instant: between two transactions, never in the middle of one.

The order of the steps is the proof; ``docs/decisions/gate.md`` has it in words.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from nodoubt.engine.settle import BATCH
from nodoubt.engine.stillness import Stillness
from nodoubt.engine.together import all_of
from nodoubt.errors import NodeUnavailable, NodoubtError
from nodoubt.nodes.contract import Branch, Ended, Gate, Glancing, Node, may_be_home
from nodoubt.nodes.world import World
from nodoubt.protocol.ids import BranchId
from nodoubt.protocol.verdicts import HomeSays

T = TypeVar("T")
logger = logging.getLogger("nodoubt")

#: How long closing a gate waits for a transaction that is being decided.
GATE_WAIT_S = 2.0
#: How often the branches of decided transactions are looked for, and for how long they are left to their owners.
LOOK_S = 0.002
OWNERS_S = 0.1

#: A step of an opening: opens a branch, or lets it take its snapshot.
Step = Callable[[], Coroutine[Any, Any, object]]


@dataclass(slots=True, eq=False)
class _Opener:
    """Somebody who waits for an instant."""

    #: Writing branches on nodes that one writer has to himself: they are opened as gates are closed.
    locks: Mapping[str, Step]
    #: Branches that are open already, and take their snapshots, by node.
    looks: dict[str, Branch]
    #: Somebody opens for it, and then has done so.
    is_taken: bool = False
    is_through: bool = False
    error: NodoubtError | None = None

    @property
    def shown(self) -> set[str]:
        return {*self.locks, *self.looks}


class Openings:
    """The openings of a manager, one after another; all who wait share the next one."""

    def __init__(self, nodes: Mapping[str, Node], world: World) -> None:
        self._nodes = nodes
        self._world = world
        self._turns = world.turns(1)
        self._stillness = Stillness(world)
        self._waiting: list[_Opener] = []

    async def open(self, locks: Mapping[str, Step], looks: dict[str, Branch], wait_s: float) -> None:
        """Take snapshots at one instant. Raises NodeUnavailable; what was opened then shows no instant.

        All connections must be there already: with the gates closed, those who have them do not give them back.
        """
        if not locks and all(self._nodes[name].capabilities.tells_stillness for name in looks):
            branches = [cast(Glancing, branch) for branch in looks.values()]
            if await self._stillness.shows_one_instant(branches):
                return
        opener = _Opener(locks, looks)
        self._waiting.append(opener)
        try:
            while not await self._turns.take(wait_s):
                # Once somebody opens for it, its connections are in use until he is through.
                if not opener.is_taken:
                    raise NodeUnavailable(f"other snapshots were being opened for {wait_s:g} s")
            try:
                if not opener.is_through:
                    await self._open_next(opener)
            finally:
                self._turns.give_back()
        finally:
            self._waiting.remove(opener)
        if opener.error is not None:
            # Each of them has a transaction of its own to name.
            raise copy(opener.error) from opener.error

    async def _open_next(self, first: _Opener) -> None:
        """Open for somebody and, unless he locks nodes, for all others who wait and lock none."""
        batch = [first]
        if not first.locks:
            batch = [opener for opener in self._waiting if opener is first or not (opener.locks or opener.is_taken)]
        for opener in batch:
            opener.is_taken = True
        error: NodoubtError | None = None
        try:
            await Instant(self._nodes, self._world).open(first.locks, batch)
        except NodoubtError as found:
            error = found
        except BaseException:
            # Nothing was opened for the others: the next of them does it.
            for opener in batch:
                opener.is_taken = False
            raise
        for opener in batch:
            opener.is_through, opener.error = True, opener.error or error


class Instant:
    """The gates of all homes, and what is done while they are closed."""

    def __init__(self, nodes: Mapping[str, Node], world: World) -> None:
        self._nodes = nodes
        self._world = world
        self._gates: dict[str, Gate] = {}

    async def open(self, locks: Mapping[str, Step], openers: Sequence[_Opener]) -> None:
        """Take all snapshots. Raises NodeUnavailable."""
        is_left = True
        try:
            # One after another, all openers in the same order: a gate that others wait at is not shared with who comes later.
            # First of all the locks that a whole transaction may keep, while nobody else has to wait; last those of one opener.
            for name in sorted(self._nodes, key=self._rank):
                if name in locks:
                    await locks[name]()
                elif may_be_home(self._nodes[name]):
                    self._gates[name] = await self._closed(name)
            await self._finish_decided({name for opener in openers for name in opener.shown})
            await self._all(self._show(opener) for opener in openers)
            is_left = False
        finally:
            await self._reopen(is_left=is_left)

    async def _show(self, opener: _Opener) -> None:
        """Whose connection is lost fails alone."""
        try:
            await self._all([branch.take_snapshot() for branch in opener.looks.values()])
        except NodoubtError as error:
            opener.error = error

    def _rank(self, name: str) -> tuple[bool, bool, str]:
        can = self._nodes[name].capabilities
        return can.concurrent, can.exclusive_gate, name

    async def _closed(self, name: str) -> Gate:
        try:
            return await self._nodes[name].close_gate(GATE_WAIT_S)
        except NodeUnavailable as error:
            raise NodeUnavailable(
                f"the gate of node {name!r}, which every snapshot needs, cannot be closed: {error.message}",
                retryable=error.retryable,
                hint=error.hint,
            ) from error

    async def _reopen(self, *, is_left: bool) -> None:
        """Every gate, whatever happens. Whether it was closed all the time matters only where something was opened."""
        gates, self._gates = self._gates, {}
        try:
            await self._all(gate.reopen() for gate in gates.values())
        except NodoubtError as error:
            if not is_left:
                raise
            logger.info("%s", error)

    async def _finish_decided(self, shown: Iterable[str]) -> None:
        """Wait until no decided transaction is unfinished on these nodes; finish what its owner does not.

        The lists are read with all gates closed: a branch that is on none was finished, or is not decided and will not be now.
        """
        names = sorted(shown)
        owners_until = self._world.now() + OWNERS_S
        while unfinished := await self._unfinished(names):
            if self._world.now() < owners_until:
                await self._world.sleep(LOOK_S)
                continue
            await self._all(self._finish(node, branch) for branch, node in unfinished.items())

    async def _unfinished(self, names: Iterable[str]) -> dict[BranchId, str]:
        """The branches of decided transactions that are prepared still -> their nodes."""
        listings = await self._all(self._listed(name) for name in names)
        found = {branch: name for name, branches in listings for branch in branches}
        gids: dict[str, list[str]] = {}
        for branch, name in found.items():
            if branch.home not in self._nodes:
                raise NodeUnavailable(
                    f"a transaction on node {name!r} has its home on {branch.home!r}, which is not configured here",
                    hint="configure all nodes that transactions of this domain have their home on: snapshots need their gates",
                    retryable=False,
                )
            gids.setdefault(branch.home, []).append(branch.gid)
        answers = await self._all(
            self._committed(home, asked[first : first + BATCH])
            for home, asked in gids.items()
            for first in range(0, len(asked), BATCH)
        )
        committed = {gid for answer in answers for gid in answer}
        return {branch: name for branch, name in found.items() if branch.gid in committed}

    async def _listed(self, name: str) -> tuple[str, list[BranchId]]:
        gate = self._gates.get(name)
        listing = await (gate.prepared() if gate is not None else self._nodes[name].prepared())
        return name, [branch.id for branch in listing.ours]

    async def _committed(self, home: str, gids: list[str]) -> set[str]:
        gate = self._gates.get(home)
        if gate is not None:
            return await gate.committed(gids)
        # Our own writing branch is the gate, or nobody decides there any more.
        rows = await self._nodes[home].decisions(gids)
        return {gid for gid, row in rows.items() if row.says in (HomeSays.COMMITTED, HomeSays.COMPLETE)}

    async def _finish(self, node: str, branch: BranchId) -> None:
        if await self._nodes[node].finish(branch, commit=True) is Ended.OWED:
            raise NodeUnavailable(
                f"node {node!r}: the branch of {branch.gid}, which is committed, cannot be finished now",
                hint=f"`nodoubt tx show {branch.gid}` says what it waits for",
            )

    def _all(self, steps: Iterable[Coroutine[Any, Any, T]]) -> Coroutine[Any, Any, list[T]]:
        return all_of(self._world, steps)
