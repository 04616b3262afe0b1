"""What a process with a SQLite file can be told: each verb is a step of the real node or branch, on real or simulated sessions.

What the sessions answer is written down as well. Who waits asks the same again and again: what repeats itself is told as a look.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nodoubt.errors import NodoubtError
from nodoubt.nodes.contract import Answer
from nodoubt.nodes.failures import StatementFailed
from nodoubt.nodes.sqlite import SQLiteNode
from nodoubt.nodes.sqlite_branch import SQLiteBranch
from nodoubt.nodes.sqlite_gate import SQLiteGate
from nodoubt.protocol.ids import BranchId
from nodoubt.sim.server import Disk
from nodoubt.sim.workload import OVERDRAFT, TEXTS
from tests.fidelity.actor import DOMAIN, PATIENT_S, terms_of
from tests.fidelity.names import Names

#: Over after some looks.
HASTY_S = 0.05
#: What our sessions are heard to say: texts about our tables, and about transactions.
_HEARD = ("nodoubt_", "BEGIN", "COMMIT", "ROLLBACK")

User = Callable[[Any, str, Sequence[Any]], Awaitable[Sequence[tuple[Any, ...]]]]


class Work:
    """The inside of a process. ``tell`` is called with a line of the transcript, and with None for one more look."""

    def __init__(
        self, node: SQLiteNode, disk: Disk, names: Names, user: User, tell: Callable[[str | None], None]
    ) -> None:
        self._node = node
        self._disk = disk
        self._names = names
        #: Runs a statement of the workload on a branch's connection; raises StatementFailed and NodoubtError.
        self._user = user
        self._tell = tell
        self._is_open = False
        self._branch: SQLiteBranch | None = None
        self._gate: SQLiteGate | None = None
        self._last = ""
        node.sessions.new = self._listening(node.sessions.new)  # type: ignore[method-assign]

    async def do(self, verb: str, words: Sequence[str]) -> None:
        """One step."""
        self._last = ""
        patience_s = PATIENT_S
        if verb == "hasty":
            patience_s = HASTY_S
            verb, *words = words
        self._node.settings = replace(self._node.settings, acquire_timeout_s=patience_s, lock_timeout_s=patience_s)
        try:
            if not self._is_open:
                await self._node.open()
                self._is_open = True
            await self._VERBS[verb](self, *words)
        except StatementFailed as failure:
            self._say(f"! {failure.code}")
        except NodoubtError as error:
            self._say(f"! {type(error).__name__}, {'retryable' if error.retryable else 'for good'}")

    def _say(self, line: str) -> None:
        """A line, or a look if it was the last one."""
        self._tell(None if line == self._last else line)
        self._last = line

    def _listening(self, new: Callable[..., Any]) -> Callable[..., Any]:
        def make(**options: Any) -> Any:
            session = new(**options)
            session.command = self._heard(session.command)
            return session

        return make

    def _heard(self, command: Callable[..., Any]) -> Callable[..., Any]:
        def say(sql: str, *values: Any) -> Any:
            if not any(word in sql for word in _HEARD):
                return command(sql, *values)
            text = " ".join(sql.replace("(", " ").split()[:3])
            try:
                rows = command(sql, *values)
            except StatementFailed as failure:
                self._say(f"{text} ! {failure.code}")
                raise
            shown = self._names.rows(rows)
            self._say(f"{text} = {shown if 'ORDER BY' in sql else sorted(shown, key=repr)}")
            return rows

        return say

    def _id(self, number: str) -> BranchId:
        return BranchId(domain=DOMAIN, gid=self._names.gid(number), branch=1, home="home")

    def _gids(self, numbers: Sequence[str]) -> list[str]:
        return [self._names.gid(number) for number in numbers]

    @property
    def _mine(self) -> SQLiteBranch:
        assert self._branch is not None
        return self._branch

    async def _become(self, state: str) -> None:
        """How the disk is from now on: well, full, or about to fail the next forced write."""
        self._disk.full, self._disk.fails = state == "full", state == "failing"

    # Branches

    async def _begin(self, number: str, *flags: str) -> None:
        self._branch = await self._node.begin(
            self._id(number),
            read_only="reading" in flags,
            is_home="home" in flags,
            terms=terms_of(flags, self._node.settings.acquire_timeout_s),
        )
        if "snapshot" in flags:
            await self._branch.take_snapshot()

    async def _work(self, which: int, *values: Any) -> None:
        rows = await self._user(self._mine.connection, TEXTS["sqlite"][which], values)
        self._say(f"= {self._names.rows(rows)}")

    async def _look(self, key: str) -> None:
        await self._work(0, key)

    async def _append(self, tag: str, key: str) -> None:
        await self._work(1, f"{tag},", key)

    async def _move(self, amount: str, key: str) -> None:
        await self._work(2, -OVERDRAFT if amount == "too-much" else int(amount), key)

    async def _answer(self, answer: Coroutine[Any, Any, Answer]) -> None:
        found = await answer
        self._say(f"said {found.said.name}{', retryable' if found.retryable else ''}")

    async def _prepare(self) -> None:
        await self._answer(self._mine.prepare())

    async def _release(self) -> None:
        await self._answer(self._mine.release())

    async def _decide(self, *others: str) -> None:
        await self._answer(self._mine.decide(dict(enumerate(others, 1))))

    async def _commit(self) -> None:
        self._say(f"is {(await self._mine.commit()).name}")

    async def _undo(self) -> None:
        self._say(f"is {(await self._mine.roll_back(prepared=False)).name}")

    async def _break(self) -> None:
        self._say(f"is {(await self._mine.roll_back(prepared=True)).name}")

    async def _abandon(self) -> None:
        self._mine.abandon()

    # The gate

    async def _close_gate(self) -> None:
        self._gate = await self._node.close_gate(self._node.settings.acquire_timeout_s)

    async def _reopen_gate(self) -> None:
        assert self._gate is not None
        await self._gate.reopen()

    async def _committed(self, *numbers: str) -> None:
        assert self._gate is not None
        found = await self._gate.committed(self._gids(numbers))
        self._say(f"committed: {sorted(self._names.known[gid] for gid in found)}")

    # Recovery

    async def _finish(self, end: str, number: str) -> None:
        self._say(f"is {(await self._node.finish(self._id(number), commit=end == 'commit')).name}")

    async def _list(self) -> None:
        listing = await self._node.prepared()
        ours = [(self._names.plain(found.id.gid), found.ownerless) for found in listing.ours]
        self._say(f"lists {ours} and {listing.foreign} others")

    async def _applied(self, *numbers: str) -> None:
        await self._node.applied([(gid, 1) for gid in self._gids(numbers)])

    async def _probe(self, *numbers: str) -> None:
        answers = await self._node.probe(self._gids(numbers))
        self._say(f"probed: {sorted((self._names.known[gid], says.value) for gid, says in answers.items())}")

    async def _decisions(self, *numbers: str) -> None:
        await self._node.decisions(self._gids(numbers))

    async def _unfinished(self) -> None:
        await self._node.unfinished(100)

    async def _complete(self, *numbers: str) -> None:
        await self._node.complete(self._gids(numbers))

    async def _drop(self, *numbers: str) -> None:
        await self._node.drop_evidence(self._gids(numbers))

    async def _old(self, before: str) -> None:
        await self._node.old_evidence(self._names.gid(before), 100)

    async def _purge(self, before: str, retention_s: str = "-1") -> None:
        self._say(f"purged {await self._node.purge(self._names.gid(before), float(retention_s), 100)}")

    _VERBS: Mapping[str, Callable[..., Coroutine[Any, Any, None]]] = {
        "disk": _become,
        "begin": _begin,
        "look": _look,
        "append": _append,
        "move": _move,
        "prepare": _prepare,
        "release": _release,
        "decide": _decide,
        "commit": _commit,
        "undo": _undo,
        "break": _break,
        "abandon": _abandon,
        "close-gate": _close_gate,
        "reopen-gate": _reopen_gate,
        "committed": _committed,
        "finish": _finish,
        "list": _list,
        "applied": _applied,
        "probe": _probe,
        "decisions": _decisions,
        "unfinished": _unfinished,
        "complete": _complete,
        "drop": _drop,
        "old": _old,
        "purge": _purge,
    }
