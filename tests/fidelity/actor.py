"""A session and what it can be told to do: each verb sends the dialect's own texts by the driver's own session."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nodoubt.nodes.contract import ATOMIC, GATE_S_MAX, PROBE_S_MAX, Isolation, Key, Terms
from nodoubt.nodes.dialect import Dialect, NodeSettings, Row, Session, Stillness
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.nodes.guard import BranchConnection, Guard
from nodoubt.protocol.ids import BranchId
from nodoubt.protocol.verdicts import HomeSays
from nodoubt.sim.workload import OVERDRAFT, TEXTS
from tests.fidelity.names import Names
from tests.fidelity.recorder import Recorder

DOMAIN = "fidelity"
#: Longer than any script takes, and so short that it is over before any other limit.
PATIENT_S = 30.0
#: A time-out that is over at once; 0 would be none at all on PostgreSQL.
HASTY_S = {"postgresql": 0.001, "mariadb": 0.0}
#: How long a session may idle in a transaction, when a script says that it must not for long.
SHORT_LIMIT_S = 1.0

#: Verbs of a branch, those that are for everybody, and all others: those of recovery, whose sessions have no branch.
_INSIDE = frozenset(
    {
        "look",
        "append",
        "move",
        "prepare",
        "release",
        "decide",
        "decide-unforced",
        "undo",
        "evidence",
        "insert",
        "rest",
        "still",
        "look-again",
    }
)
_ANYWHERE = frozenset({"connect", "finish", "raw"})


def terms_of(flags: Sequence[str], patience_s: float) -> Terms:
    """What a branch is begun for: ``snapshot``, or ``serializable`` with keys such as ``key:x`` and ``key:x:shared``."""
    for isolation in (Isolation.SNAPSHOT, Isolation.SERIALIZABLE):
        if isolation.value in flags:
            named = [flag.split(":") for flag in flags if flag.startswith("key:")]
            keys = tuple(Key(name=words[1], shared="shared" in words) for words in named)
            return Terms(isolation=isolation, keys=keys, lock_wait_s=patience_s)
    return ATOMIC


class Actor:
    """One session of a script. ``user`` runs a statement of the workload on its bound connection, by its driver's ways."""

    def __init__(
        self,
        name: str,
        dialect: Dialect,
        names: Names,
        connect: Callable[[NodeSettings], Coroutine[Any, Any, Session]],
        user: Callable[[Any, Session, str, Sequence[Any]], Coroutine[Any, Any, Sequence[Row]]],
    ) -> None:
        self.name = name
        self.said: list[str] = []
        self.handle: Session | None = None
        self._dialect = dialect
        self._names = names
        self._connect = connect
        self._user = user
        self._connection: BranchConnection | None = None
        self._timeout_s = PATIENT_S
        #: A branch is open on the session, or prepared and still attached to it.
        self._is_open = False
        #: The transaction whose branch the session began last.
        self._begun = ""
        self._stillness: Stillness | None = None
        self._terms = ATOMIC
        #: Sessions that were given up, as the library does after a failure.
        self.discarded: list[Session] = []

    async def do(self, verb: str, words: Sequence[str], others: Mapping[str, Actor]) -> None:
        """One step; what is answered is noted in ``said``."""
        self._timeout_s = PATIENT_S
        if verb == "hasty":
            self._timeout_s = HASTY_S[self._dialect.kind]
            verb, *words = words
        try:
            if self.handle is None:
                await self._open(short="short" in words)
            if verb not in _ANYWHERE and (verb in _INSIDE) != self._is_open:
                self.said.append("is in a branch" if self._is_open else "is in no branch")
            elif verb == "end-owner":
                await self._end_owner(others[words[1]], words[0])
            elif verb != "connect":
                await self._VERBS[verb](self, *words)
        except ConnectionLost:
            self.handle = None
        except asyncio.CancelledError:
            # aiomysql closes a connection whose answer nobody waits for; asyncpg asks the server to stop.
            if self._dialect.kind == "mariadb":
                self._discard()
            raise
        except StatementFailed:
            if verb not in _INSIDE and verb not in _ANYWHERE:
                self._discard()

    def _discard(self) -> None:
        handle, self.handle = self.handle, None
        if handle is not None:
            handle.abandon()
            self.discarded.append(handle)

    async def _open(self, *, short: bool) -> None:
        settings = NodeSettings(url="", session_limit_s=SHORT_LIMIT_S if short else 600.0, lock_timeout_s=PATIENT_S)
        session = await self._connect(settings)
        await self._dialect.set_up(session, settings)
        self._names.known[session.token] = f"token-{self.name}"
        self.handle = session
        self._is_open = False
        self._begun = ""
        self._connection = session.bind(Guard("node", "", self._dialect.rules, is_home=True))

    def _recorder(self, *, is_quiet: bool = False) -> Any:
        """A recorder, to be used as the session that it stands before."""
        assert self.handle is not None
        return Recorder(inner=self.handle, names=self._names, said=self.said, is_quiet=is_quiet)

    def _branch(self, number: str) -> BranchId:
        """The branch as this session calls it, or else the one that began it last."""
        assert self.handle is not None
        branch = BranchId(domain=DOMAIN, gid=self._names.gid(number), branch=1, home="home")
        if self._dialect.capabilities.detached:
            return branch
        own = self.handle.token
        return branch._replace(session=own if number == self._begun else self._names.begun.get(number, own))

    def _gids(self, numbers: Sequence[str]) -> list[str]:
        return [self._names.gid(number) for number in numbers]

    # Branches

    async def _begin(self, number: str, *flags: str) -> None:
        session = self._recorder()
        self._begun, self._names.begun[number] = number, session.token
        branch, reading = self._branch(number), "reading" in flags
        terms = self._terms = terms_of(flags, self._timeout_s)
        if terms is not ATOMIC:
            assert self.handle is not None
            await session.command(self._dialect.begin_on(self.handle, branch, read_only=reading, terms=terms))
            if terms.isolation is Isolation.SNAPSHOT:
                self._stillness = self._dialect.stillness(terms)
                await session.command(self._told.glance if "glance" in flags else self._dialect.look(terms))
        elif not session.begin_later(text := self._dialect.begin(branch, read_only=reading)):
            await session.command(text)
        self._is_open = True

    @property
    def _told(self) -> Stillness:
        assert self._stillness is not None
        return self._stillness

    async def _still(self) -> None:
        await self._recorder().command(self._told.still)

    async def _look_again(self) -> None:
        await self._recorder().command(self._told.look_again)

    async def _look(self, key: str) -> None:
        await self._work(0, key)

    async def _append(self, tag: str, key: str) -> None:
        await self._work(1, f"{tag},", key)

    async def _move(self, amount: str, key: str) -> None:
        await self._work(2, -OVERDRAFT if amount == "too-much" else int(amount), key)

    async def _work(self, which: int, *values: Any) -> None:
        assert self.handle is not None
        session = self._recorder()
        rows = await session._noted(self._user(self._connection, self.handle, TEXTS[self._dialect.kind][which], values))
        self.said.append(f"= {self._names.rows(rows)}")

    async def _prepare(self, number: str) -> None:
        try:
            await self._recorder().command(self._dialect.prepare(self._branch(number)))
        finally:
            self._is_open = not self._dialect.capabilities.detached

    async def _release(self) -> None:
        await self._recorder().command(self._dialect.release(self._terms))
        self._is_open = False

    async def _decide(self, number: str, *others: str) -> None:
        participants = dict(enumerate(others, 1))
        await self._recorder().command(self._dialect.decide(self._branch(number), participants))
        self._is_open = False

    async def _decide_unforced(self, number: str) -> None:
        text = self._dialect.decide(self._branch(number), {})
        await self._recorder().command(text.partition(";SET TRANSACTION")[0])
        self._is_open = False

    async def _evidence(self, number: str) -> None:
        """What :meth:`_prepare` does up to its row."""
        await self._recorder().command(_half(self._dialect.prepare(self._branch(number)), 0))

    async def _insert(self, number: str) -> None:
        """What :meth:`_decide` does up to its row."""
        await self._recorder().command(_half(self._dialect.decide(self._branch(number), {1: "other"}), 0))

    async def _rest(self, number: str) -> None:
        """What stands behind :meth:`_insert`."""
        await self._recorder().command(_half(self._dialect.decide(self._branch(number), {}), 1))
        self._is_open = False

    async def _finish(self, end: str, number: str) -> None:
        await self._recorder().command(self._dialect.finish(self._branch(number), commit=end == "commit"))
        self._is_open = False

    async def _held(self, number: str) -> None:
        await self._recorder().command(self._dialect.hidden(self._names.gid(number), [1]))

    async def _reveal(self, number: str) -> None:
        await self._recorder().command(self._dialect.reveal(self._branch(number)))
        self._is_open = True

    async def _undo(self, number: str) -> None:
        is_clean = await self._dialect.undo(self._recorder(), self._branch(number))
        self._is_open = False
        if not is_clean:
            self._discard()

    async def _raw(self, *words: str) -> None:
        await self._recorder().command(" ".join(words))
        self._is_open = False

    # The gate

    async def _close_gate(self) -> None:
        await self._recorder().command(self._dialect.close_gate(self._timeout_s, GATE_S_MAX))

    async def _reopen_gate(self) -> None:
        await self._recorder().command(self._dialect.reopen_gate())

    # Recovery

    async def _list(self) -> None:
        await self._dialect.prepared(self._recorder(), DOMAIN)

    async def _end_owner(self, owner: Actor, number: str) -> None:
        handle = owner.handle.handle if owner.handle is not None else ""
        # How often it looks depends on the weather.
        gone = await self._dialect.end_owner(self._recorder(is_quiet=True), self._branch(number), handle)
        self.said.append(f"is gone: {gone}")

    async def _applied(self, *numbers: str) -> None:
        await self._dialect.applied(self._recorder(), [(gid, 1) for gid in self._gids(numbers)])

    async def _probe(self, *numbers: str) -> None:
        answers = await self._probed(self._recorder(), numbers, PROBE_S_MAX)
        self.said.append(f"probed: {sorted((self._names.known[gid], says.value) for gid, says in answers.items())}")

    async def _late_probe(self, *numbers: str) -> None:
        """A probe that was under way for too long."""
        await self._probed(self._recorder(), numbers, -1.0)

    async def _probed(self, recorder: Any, numbers: Sequence[str], within_s: float) -> Mapping[str, HomeSays]:
        now_s = await self._dialect.before_probe(replace(recorder, is_quiet=True), self._timeout_s)
        return await self._dialect.probe(recorder, self._gids(numbers), now_s + within_s)

    async def _half_probe(self, *numbers: str) -> None:
        """A probe whose transaction is left open."""
        recorder = self._recorder()
        recorder.holds = True
        if self._dialect.kind == "postgresql":
            await recorder.command("BEGIN")
        await self._probed(recorder, numbers, PROBE_S_MAX)
        self._is_open = True

    async def _decisions(self, *numbers: str) -> None:
        await self._dialect.decisions(self._recorder(), self._gids(numbers))

    async def _unfinished(self) -> None:
        await self._dialect.unfinished(self._recorder(), 100)

    async def _complete(self, *numbers: str) -> None:
        await self._recorder().command(self._dialect.complete(self._gids(numbers)))

    async def _drop(self, *numbers: str) -> None:
        await self._recorder().command(self._dialect.drop_evidence(self._gids(numbers)))

    async def _old(self, before: str) -> None:
        await self._recorder().query(self._dialect.old_evidence(self._names.gid(before), 100))

    async def _purge(self, before: str, retention_s: str = "0") -> None:
        await self._dialect.purge(self._recorder(), self._names.gid(before), float(retention_s), 100)

    async def _identify(self) -> None:
        await self._dialect.check_identity(self._recorder(), "home", DOMAIN)

    async def _serve(self) -> None:
        """What a new session is told; once the node was opened it knows its database."""
        await self._dialect.serve(self._recorder())

    async def _durable(self) -> None:
        found = await self._dialect.durable(self._recorder(is_quiet=True))
        self.said.append(f"= {[(finding.check, finding.level) for finding in found]}")

    _VERBS: Mapping[str, Callable[..., Coroutine[Any, Any, None]]] = {
        "begin": _begin,
        "look": _look,
        "still": _still,
        "look-again": _look_again,
        "append": _append,
        "move": _move,
        "prepare": _prepare,
        "release": _release,
        "decide": _decide,
        "decide-unforced": _decide_unforced,
        "finish": _finish,
        "held": _held,
        "reveal": _reveal,
        "undo": _undo,
        "raw": _raw,
        "close-gate": _close_gate,
        "reopen-gate": _reopen_gate,
        "list": _list,
        "applied": _applied,
        "probe": _probe,
        "late-probe": _late_probe,
        "half-probe": _half_probe,
        "evidence": _evidence,
        "insert": _insert,
        "rest": _rest,
        "decisions": _decisions,
        "unfinished": _unfinished,
        "complete": _complete,
        "drop": _drop,
        "old": _old,
        "purge": _purge,
        "identify": _identify,
        "serve": _serve,
        "durable": _durable,
    }


def _half(packet: str, number: int) -> str:
    """A vote's or decision's packet up to its row, or what comes after that."""
    written = re.search(r"nodoubt_(evidence|branch|deci)", packet)
    assert written is not None
    row_ends = packet.index(";", written.start())
    return (packet[:row_ends], packet[row_ends + 1 :])[number]
