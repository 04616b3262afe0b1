"""A node that is a database server: the contract's steps, written once for every dialect and driver.

Knowledge of a database (texts, limits, error codes) is the dialect's; carrying texts is the driver's. No policy here: what a
step means for the transaction is the protocol's business.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from nodoubt.errors import ConfigError, NodeUnavailable, NodoubtError
from nodoubt.nodes import sql_attached as attached
from nodoubt.nodes.contract import (
    ATOMIC,
    GATE_S_MAX,
    PROBE_S_MAX,
    DecisionRow,
    Ended,
    Finding,
    Isolation,
    Listing,
    Terms,
    always,
)
from nodoubt.nodes.dialect import Dialect, Driver, NodeSettings, Row, Session
from nodoubt.nodes.failures import ConnectionLost, StatementFailed, too_late
from nodoubt.nodes.findings import compared
from nodoubt.nodes.pool import Pool
from nodoubt.nodes.sql_branch import SqlBranch
from nodoubt.nodes.sql_gate import GATES_MAX, REOPEN_S_MAX, SqlGate
from nodoubt.nodes.texts import awaited, unreadable_reason
from nodoubt.nodes.world import World
from nodoubt.protocol.ids import BranchId, token
from nodoubt.protocol.verdicts import HomeSays

logger = logging.getLogger("nodoubt")

#: No step of recovery takes longer, or its session is cut off and the step is tried again in a later round.
SERVICE_S_MAX = PROBE_S_MAX
#: How often a branch is finished again within one call, after its session was ended or the branch was revealed.
FINISHES_MAX = 5


class SqlNode:
    """A database server as a node: see :class:`nodoubt.nodes.contract.Node`."""

    def __init__(
        self, name: str, domain: str, *, dialect: Dialect, driver: Driver, world: World, settings: NodeSettings
    ) -> None:
        self.name = name
        self.kind = dialect.kind
        self.capabilities = dialect.capabilities
        self.home_refusal = ""
        self.domain = domain
        self.dialect = dialect
        self._driver = driver
        self._world = world
        self._settings = settings
        self.pool = self._pool(self._branch_session, settings.pool_size)
        self._service = self._pool(self.connect, settings.settle_connections)
        #: Who holds gates of other nodes waits no longer than these stay closed without him.
        self._gates = self._pool(self.connect, GATES_MAX, GATE_S_MAX)
        self._findings: Sequence[Finding] = ()

    def _pool(self, connect: Callable[[], Any], size: int, acquire_s_max: float = math.inf) -> Pool[Session]:
        acquire_timeout_s = min(self._settings.acquire_timeout_s, acquire_s_max)
        return Pool(self.name, self._world, connect, size=size, acquire_timeout_s=acquire_timeout_s)

    async def connect(self) -> Session:
        """A new session for recovery and gates, which belongs to no pool yet. Raises NodeUnavailable and ConfigError."""
        session = await self._driver.connect(self._settings)
        await self._ready(session, self.dialect.serve(session))
        return session

    async def _branch_session(self) -> Session:
        session = await self._driver.connect(self._settings)
        session.token = token(self._world.random(5))
        await self._ready(session, self.dialect.set_up(session, self._settings))
        return session

    @asynccontextmanager
    async def _beside(self) -> AsyncIterator[Session]:
        """A session that belongs to no pool, for a moment. Raises NodeUnavailable and ConfigError."""
        session = await self._driver.connect(self._settings)
        alarm = self._world.later(self._settings.connect_timeout_s, session.abandon)
        try:
            yield session
        finally:
            alarm.cancel()
            await session.close()

    async def _ready(self, session: Session, step: Awaitable[object]) -> None:
        alarm = self._world.later(self._settings.connect_timeout_s, session.abandon)
        try:
            await step
        except BaseException as error:
            session.abandon()
            if isinstance(error, ConnectionLost | StatementFailed):
                raise self._refused("refused a new session", error) from error
            raise
        finally:
            alarm.cancel()

    def _refused(self, what: str, error: ConnectionLost | StatementFailed) -> NodeUnavailable:
        passes = isinstance(error, ConnectionLost) or self.dialect.is_retryable(error)
        hint = "" if passes else "run `nodoubt doctor`: it says what the node lacks"
        return NodeUnavailable(f"node {self.name!r} {what}: {error}", retryable=passes, hint=hint)

    async def open(self) -> None:
        try:
            async with self._beside() as session:
                await self.dialect.check_own_session(session, self.name, self._beside)
                await self.dialect.check_identity(session, self.name, self.domain)
                findings = await self.dialect.durable(session)
        except (ConnectionLost, StatementFailed) as error:
            raise self._refused("cannot be opened", error) from error
        self._find(findings)

    async def check_durable(self) -> None:
        self._find(await self._serve("tell whether it forces its commits", self.dialect.durable))

    def _find(self, findings: Sequence[Finding]) -> None:
        before, self._findings = self.home_refusal, findings
        self.home_refusal = "; ".join(finding.text for finding in findings if finding.level == "error")
        if self.home_refusal and not before:
            logger.warning("node %r is for reading only: %s", self.name, self.home_refusal)
        elif before and not self.home_refusal:
            logger.warning("node %r takes branches that write again", self.name)

    async def close(self) -> None:
        await self.pool.close()
        await self._service.close()
        await self._gates.close()

    async def begin(self, branch: BranchId, *, read_only: bool, is_home: bool, terms: Terms = ATOMIC) -> SqlBranch:
        if self.home_refusal and not read_only:
            raise ConfigError(
                f"node {self.name!r} cannot keep what it promises: {self.home_refusal}",
                hint="mend that, which is noticed after a while, or read there with read_only=True; `nodoubt doctor` says more",
            )
        while True:
            session, is_new = self.pool.at_hand() or await self.pool.take()
            if not self.capabilities.detached:
                branch = branch._replace(session=session.token)
            try:
                if terms.isolation is Isolation.ATOMIC and not session.tuning:
                    text = self.dialect.begin(branch, read_only=read_only)
                else:
                    text = self.dialect.begin_on(session, branch, read_only=read_only, terms=terms)
                if terms.isolation is Isolation.SERIALIZABLE:
                    # It waits for its locks here.
                    limit_s = self._settings.connect_timeout_s + terms.lock_wait_s * (1 + len(terms.keys))
                    await self.within(limit_s, session, text)
                elif not session.begin_later(text):
                    is_plain = terms.isolation is Isolation.ATOMIC and not is_home
                    await self._begin_now(session, text, needs_alarm=not (is_plain and self._world.interrupts))
                return SqlBranch(self, session, branch, is_home=is_home, terms=terms)
            except BaseException as error:
                self._give_up(self.pool, session, error, f"begin{awaited(terms)}", is_new=is_new)

    async def _begin_now(self, session: Session, text: str, *, needs_alarm: bool) -> None:
        """The deadline cannot cut a session that is not its branch's yet. Nobody interrupts home, or an opening."""
        if needs_alarm:
            await self.within(self._settings.connect_timeout_s, session, text)
        else:
            await session.command(text)

    def _give_up(self, pool: Pool[Session], session: Session, error: BaseException, what: str, *, is_new: bool) -> None:
        """Part with a session that did not do the first thing it was told; returns only where another one may do it."""
        pool.discard(session)
        if isinstance(error, StatementFailed):
            raise NodeUnavailable(
                f"node {self.name!r} refused to {what}: {error}", retryable=self.dialect.is_retryable(error)
            ) from error
        if not isinstance(error, ConnectionLost):
            raise error
        if is_new:
            raise NodeUnavailable(f"node {self.name!r} was lost: {error}") from error
        # The server was restarted: what idles in the pool is as dead as this one.
        pool.forget_idle()

    async def look(self, session: Session, text: str) -> str:
        """Take a branch's snapshot, or ask about it; returns the tag. Raises NodeUnavailable."""
        try:
            return await self.within(self._settings.connect_timeout_s, session, text)
        except (ConnectionLost, StatementFailed) as error:
            raise NodeUnavailable(f"node {self.name!r} showed no snapshot: {error}") from error

    async def within(self, limit_s: float, session: Session, text: str) -> str:
        """Send a text, and cut the session off if it takes too long."""
        alarm = self._world.later(limit_s, session.abandon)
        try:
            return await session.command(text)
        finally:
            alarm.cancel()

    def refusal(self, isolation: Isolation, *, read_only: bool) -> str:
        why = self.dialect.refusal(self._findings, isolation, read_only=read_only)
        return f"node {self.name!r}: {why}" if why else ""

    async def close_gate(self, wait_s: float) -> SqlGate:
        while True:
            session, is_new = await self._gates.take()
            text = self.dialect.close_gate(wait_s, GATE_S_MAX)
            try:
                await self.within(self._settings.connect_timeout_s + 2 * wait_s, session, text)
                return SqlGate(self, session)
            except BaseException as error:
                self._give_up(self._gates, session, error, f"close its gate within {wait_s:g} s", is_new=is_new)

    async def reopen_gate(self, session: Session) -> None:
        """Let decisions through again: as :meth:`nodoubt.nodes.contract.Gate.reopen`."""
        try:
            await self.within(REOPEN_S_MAX, session, self.dialect.reopen_gate())
        except BaseException as error:
            self._give_up(self._gates, session, error, "open a gate that was closed all the time", is_new=True)
        self._gates.give_back(session)

    async def committed(self, gids: Sequence[str]) -> set[str]:
        """Those that are decided to commit, as they are found from behind a closed gate, and forced. Raises NodeUnavailable."""
        rows: Mapping[str, DecisionRow] = await self._serve(
            "show decisions", lambda session: self.dialect.decisions(session, gids), self._gates
        )
        return {gid for gid, row in rows.items() if row.says in (HomeSays.COMMITTED, HomeSays.COMPLETE)}

    async def listed(self) -> Listing:
        """As :meth:`prepared`, on a session that no settling can have taken. Raises NodeUnavailable."""
        listing: Listing = await self._serve(
            "list prepared branches", lambda session: attached.listed(self, session), self._gates
        )
        return listing

    async def _serve(self, what: str, step: Callable[[Session], Any], pool: Pool[Session] | None = None) -> Any:
        """Run a recovery step on a session of its own pool; anything but success discards the session."""
        pool = pool or self._service
        session, _ = await pool.take()
        # A server that accepts and never answers must not stop the settler (recovery rule 4).
        alarm = self._world.later(SERVICE_S_MAX, session.abandon)
        try:
            result = await step(session)
        except (ConnectionLost, StatementFailed) as error:
            pool.discard(session)
            pool.forget_idle()
            raise NodeUnavailable(f"node {self.name!r} could not {what}: {error}") from error
        except BaseException:
            pool.discard(session)
            raise
        finally:
            alarm.cancel()
        pool.give_back(session)
        return result

    async def prepared(self) -> Listing:
        listing: Listing = await self._serve("list prepared branches", lambda session: attached.listed(self, session))
        return listing

    async def applied(self, branches: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        found: set[tuple[str, int]] = await self._serve(
            "show evidence", lambda session: attached.applied(self, session, branches)
        )
        return found

    async def finish(self, branch: BranchId, *, commit: bool, owner: str = "") -> Ended:
        """See the contract. ``owner`` is the handle of a session of ours that may still be about to prepare it."""
        try:
            ended: Ended = await self._serve(
                "finish a branch", lambda session: self._finish(session, branch, commit, owner)
            )
        except NodoubtError as error:
            logger.warning("%s", error)
            return Ended.OWED
        return ended

    async def end_session(self, branch: BranchId, handle: str) -> None:
        """End a session of ours whose line was cut or lost, as far as the server can be reached."""
        try:
            await self._serve("end a session", lambda session: self.dialect.end_owner(session, branch, handle))
        except NodoubtError as error:
            logger.info("%s", error)

    async def _finish(self, session: Session, branch: BranchId, commit: bool, owner: str) -> Ended:
        if owner and not await self.dialect.end_owner(session, branch, owner):
            return Ended.OWED
        if not self.capabilities.detached and not await attached.let_go(self, session, branch):
            return Ended.OWED
        for _ in range(FINISHES_MAX):
            done = True
            try:
                await session.command(self.dialect.finish(branch, commit=commit))
            except StatementFailed as failure:
                if not self.dialect.is_missing(failure):
                    logger.warning("node %r does not finish %s: %s", self.name, branch.text(), failure)
                    return Ended.OWED
                # "Not found" counts only when the list, read afterwards, does not show the branch (recovery rule 3).
                done = False
                if await attached.is_listed(self, session, branch):
                    # Attached to its session. Where branches never are, a later round will do.
                    if self.capabilities.detached or not await self.dialect.end_owner(session, branch, ""):
                        return Ended.OWED
                    continue
            key = (branch.gid, branch.branch)
            if await attached.is_held(self, session, *key):
                await attached.reveal(self, branch)
                continue
            if done:
                return Ended.DONE
            return Ended.APPLIED if key in await self.dialect.applied(session, [key]) else Ended.ABSENT
        return Ended.OWED

    async def probe(self, gids: Sequence[str], in_time: Callable[[], bool] = always) -> Mapping[str, HomeSays]:
        async def step(session: Session) -> Mapping[str, HomeSays]:
            now_s = await self.dialect.before_probe(session, self._settings.lock_timeout_s)
            if not in_time():
                raise too_late()
            return await self.dialect.probe(session, gids, now_s + PROBE_S_MAX)

        try:
            answers: Mapping[str, HomeSays] = await self._serve("be probed", step)
        except NodeUnavailable as error:
            if not isinstance(error.__cause__, StatementFailed) or not self.dialect.is_locked(error.__cause__):
                raise
            if len(gids) == 1:
                # Perhaps it is no committer at work that holds the key, but a decision that needs committing again.
                await self.prepared()
                return {gids[0]: HomeSays.BUSY}
            # One key in use must not keep the others in doubt: halve the batch until it stands alone.
            middle = len(gids) // 2
            return {**await self.probe(gids[:middle], in_time), **await self.probe(gids[middle:], in_time)}
        return answers

    async def decisions(self, gids: Sequence[str]) -> Mapping[str, DecisionRow]:
        rows: Mapping[str, DecisionRow] = await self._serve(
            "show decisions", lambda session: self.dialect.decisions(session, gids)
        )
        return rows

    async def unfinished(self, limit: int) -> Sequence[DecisionRow]:
        rows: Sequence[DecisionRow] = await self._serve(
            "show unfinished decisions", lambda session: self.dialect.unfinished(session, limit)
        )
        return rows

    async def complete(self, gids: Sequence[str]) -> None:
        await self._serve("complete decisions", lambda session: session.command(self.dialect.complete(gids)))

    async def drop_evidence(self, gids: Sequence[str]) -> None:
        await self._serve("drop evidence", lambda session: session.command(self.dialect.drop_evidence(gids)))

    async def old_evidence(self, before_gid: str, limit: int) -> Sequence[str]:
        rows: Sequence[Row] = await self._serve(
            "show old evidence", lambda session: session.query(self.dialect.old_evidence(before_gid, limit))
        )
        return [gid for (gid,) in rows]

    async def purge(self, before_gid: str, retention_s: float, limit: int) -> int:
        count: int = await self._serve(
            "purge", lambda session: self.dialect.purge(session, before_gid, retention_s, limit)
        )
        return count

    async def resolve(self, gid: str, *, commit: bool, reason: str) -> HomeSays:
        row = (await self.decisions([gid])).get(gid)
        if row is not None and row.raw is not None:
            text = self.dialect.replace_broken(row, commit=commit, reason=unreadable_reason(reason, row.raw))
        else:
            text = self.dialect.resolve(gid, commit=commit, reason=reason)
        await self._serve("take a resolution", lambda session: session.command(text))
        return (await self.decisions([gid]))[gid].says

    async def inspect(self) -> Sequence[Finding]:
        try:
            async with self._beside() as session:
                try:
                    await self.dialect.check_own_session(session, self.name, self._beside)
                except ConfigError as error:
                    return [Finding(check="sessions", level="error", text=error.message, fix=error.hint)]
                findings = await self.dialect.inspect(session, self.name, self.domain)
                now_s, pool_size = self._world.unix_ms() / 1000, self._settings.pool_size
                return [compared(finding, now_s=now_s, pool_size=pool_size) for finding in findings]
        except NodoubtError as error:
            return [Finding(check="reachable", level="error", text=error.message, fix=error.hint)]
        except (ConnectionLost, StatementFailed) as error:
            return [Finding(check="reachable", level="error", text=f"lost while looking: {error}")]

    async def install(self) -> str:
        session = await self._driver.connect(self._settings)
        try:
            await self.dialect.check_own_session(session, self.name, self._beside)
            return await self.dialect.install(session, self.name, self.domain, token(self._world.random(5)))
        except (ConnectionLost, StatementFailed) as error:
            raise NodeUnavailable(f"node {self.name!r} could not be installed: {error}", retryable=False) from error
        finally:
            await session.close()

    def ddl(self) -> str:
        return self.dialect.ddl(self.name, self.domain)
