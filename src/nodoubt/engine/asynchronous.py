"""The public shell for asyncio."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import nullcontext, suppress
from contextvars import Context
from types import TracebackType
from typing import Any, Generic, TypeVar, Unpack

from nodoubt.engine.config import Config
from nodoubt.engine.engine import Engine
from nodoubt.engine.request import Wishes
from nodoubt.engine.retry import backoff_s
from nodoubt.engine.settle import Doubt, SettleReport
from nodoubt.engine.shell import ManagerShell, TransactionShell
from nodoubt.engine.work import Work
from nodoubt.engine.worlds import AsyncWorld
from nodoubt.errors import Aborted, Outcome

logger = logging.getLogger("nodoubt")
T = TypeVar("T")

#: How long closing a manager waits for the turn that its background is in.
CLOSE_S_MAX = 5.0


class AsyncTransaction(TransactionShell):
    """A transaction: ``async with tm.transaction() as tx``."""

    _task: asyncio.Task[Any] | None = None
    _interrupted = False
    #: How often the task had been cancelled before.
    _cancelled = 0

    def on(self, name: str, *, read_only: bool = False) -> Coroutine[Any, Any, Any]:
        """The driver's own connection to a node, in this transaction.

        Raises ConfigError for an unknown name and NodeUnavailable when the node or its pool cannot serve. The connection
        is usable until the block ends; calling commit, rollback or the like on it raises GuardError.
        """
        self._require_entered()
        return self._work.on(name, read_only=read_only)

    async def rollback(self, reason: str = "rolled back by the caller") -> None:
        """Undo everything now. Leaving the block afterwards is no error."""
        await _to_its_end(self._work.roll_back(reason))

    async def __aenter__(self) -> AsyncTransaction:
        if self._work.opens_at_begin:
            try:
                await _to_its_end(self._work.open_named())
            except BaseException as error:
                # Who was cancelled meanwhile has them open all the same, and never comes to leave the block.
                await _to_its_end(self._work.roll_back(f"{type(error).__name__}: {error}"))
                raise
        self._is_entered = True
        self._task = asyncio.current_task()
        self._cancelled = self._task.cancelling() if self._task is not None else 0
        self._work.interrupt = self._interrupt
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work.interrupt = None
        # Our own interrupt becomes the time-out, as in asyncio.timeout; somebody else's cancellation goes on.
        is_ours = self._task is not None and self._interrupted and self._task.uncancel() <= self._cancelled
        if error is not None:
            await _to_its_end(self._work.roll_back(f"{type(error).__name__}: {error}"))
            self._tell(error)
            if is_ours and isinstance(error, asyncio.CancelledError):
                raise self._work.timed_out() from error
            return
        if self._work.is_open:
            await _to_its_end(self._work.commit())

    def _interrupt(self) -> None:
        if self._task is not None:
            self._interrupted = True
            self._task.cancel()


class AsyncSnapshot:
    """One instant of several nodes, to read: ``async with tm.snapshot() as view``."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._transaction = AsyncTransaction(work)

    async def __aenter__(self) -> AsyncSnapshot:
        await self._transaction.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was read was read: that a line is lost when nothing is left to do takes nothing back.
        with suppress(Aborted) if error is None else nullcontext():
            await self._transaction.__aexit__(kind, error, trace)

    async def on(self, name: str) -> Any:
        """The driver's own connection to a node. Raises GuardError for one that is not in the snapshot."""
        return await self._transaction.on(name, read_only=True)

    async def another(self, name: str) -> Any:
        """One more connection that shows the same, to read with several tasks at once. PostgreSQL only, else ConfigError."""
        return await self._work.share(name)


async def _to_its_end(step: Coroutine[Any, Any, T]) -> T:
    """Run a step that a cancellation of the caller must not tear (recovery rule 13); the cancellation follows it."""
    task = asyncio.get_running_loop().create_task(step)
    try:
        return await _Unhurried(task)
    except asyncio.CancelledError as cancelled:
        cancelled.__cause__ = None if task.cancelled() else task.exception()
        raise


class _Unhurried(Generic[T]):
    """Waits for a task and refuses to be cancelled: asyncio then delivers a cancellation when the task has ended.

    Much the same as waiting in a loop for `asyncio.shield`, with one future and one turn of the loop less for each transaction.
    A task awaits anything that yields an object with these members (as `asyncio.isfuture` has it).
    """

    _asyncio_future_blocking = False

    def __init__(self, task: asyncio.Task[T]) -> None:
        self._task = task

    def __await__(self) -> Generator[Any, None, T]:
        self._asyncio_future_blocking = True
        yield self
        return self._task.result()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._task.get_loop()

    def add_done_callback(self, call: Callable[[asyncio.Task[T]], object], *, context: Context) -> None:
        self._task.add_done_callback(call, context=context)

    def cancel(self, msg: object = None) -> bool:
        return False


class AsyncTransactionManager(ManagerShell):
    """Opens transactions over the configured nodes, and settles in the background. See :meth:`open`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._background: asyncio.Task[None] | None = None
        self._nudged = asyncio.Event()
        self._closing = False

    async def __aenter__(self) -> AsyncTransactionManager:
        self._closing = False
        self._engine = self._make_engine(AsyncWorld())
        self._engine.nudge = self._nudged.set
        await self._engine.open()
        self._background = asyncio.create_task(self._tend(self._engine), name="nodoubt-settler")
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._background is not None:
            # A turn that is under way ends by itself: cancelled drivers may leave half-made connections behind.
            self._closing = True
            self._nudged.set()
            await asyncio.wait({self._background}, timeout=CLOSE_S_MAX)
            self._background.cancel()
            await asyncio.gather(self._background, return_exceptions=True)
        if self._engine is not None:
            await self._engine.close()

    async def _tend(self, engine: Engine) -> None:
        while not self._closing:
            self._nudged.clear()
            try:
                pause_s = await engine.tend()
            except Exception:
                logger.exception("the background settler met a bug and goes on")
                pause_s = engine.settings.settle_every_s
            alarm = asyncio.get_running_loop().call_later(pause_s, self._nudged.set)
            try:
                await self._nudged.wait()
            finally:
                alarm.cancel()

    def transaction(
        self, *, timeout: float | None = None, home: str | None = None, **wishes: Unpack[Wishes]
    ) -> AsyncTransaction:
        """Begin a transaction: leaving the block commits everywhere, an exception in it rolls back everywhere.

        ``timeout`` is in seconds and ends at the decision. ``home`` names the node that carries the decision; by default it
        is the first one enlisted. Leaving the block raises Aborted, OutcomeUnknown or HeuristicOutcome.

        ``isolation`` says what the transaction sees of others, over all its nodes together; see ``docs/isolation.md``.

        - ``"atomic"``: each node gives what it is set to give; half of another transaction may be seen.
        - ``"snapshot"``: global snapshot isolation. The branches of ``nodes`` (by default all) and, to read only, of ``reads``
          are opened at begin, and show one instant: every transaction of this domain wholly or not at all, and all that
          were acknowledged before. Who writes over what it does not show is aborted, retryably. Write skew is possible.
        - ``"serializable"``: strictly serializable among transactions of this level, by locks on what is read and
          written. On PostgreSQL the locks are ``keys``: names of your own (``shared("…")`` to read only) that stand for
          the rows that the block touches there; without any it runs alone in the domain. Rows that no declared key stands
          for are not protected. Named ``nodes`` and ``reads`` are opened at begin, others when they are asked for.

        What somebody writes without nodoubt is not covered. What a node cannot give is refused with ConfigError.
        """
        return AsyncTransaction(self.engine.begin(home=home, timeout_s=timeout, **wishes))

    def snapshot(self, *nodes: str, max_age: float | None = None) -> AsyncSnapshot:
        """Open a view of several nodes (by default of all) at one instant, to read: reports, exports, checks.

        It shows what a transaction at ``"snapshot"`` would see, and blocks writers only while it is opened. Entering raises
        NodeUnavailable, which is retryable, when an instant was not to be had. After ``max_age`` seconds (by default the
        transactions' timeout) its connections end: a server must keep all that an open snapshot shows.
        """
        return AsyncSnapshot(
            self.engine.begin(
                timeout_s=max_age, isolation="snapshot", nodes=(), reads=nodes or tuple(self.engine.nodes)
            )
        )

    async def run(
        self,
        function: Callable[[AsyncTransaction], Awaitable[T]],
        *,
        attempts: int = 3,
        timeout: float | None = None,
        **wishes: Unpack[Wishes],
    ) -> T:
        """Run a closure in a transaction, again with a new one after an abort that is retryable, ``attempts`` times at most.

        Nothing else is ever retried; an unknown outcome least of all. See :meth:`transaction` for the rest.
        """
        for attempt in range(1, attempts + 1):
            work = self.engine.begin(timeout_s=timeout, attempt=attempt, **wishes)
            try:
                async with AsyncTransaction(work) as tx:
                    return await function(tx)
            except Exception as error:
                if attempt == attempts or not work.may_retry(error):
                    raise
                await self.engine.world.sleep(backoff_s(attempt, self.engine.world))
        raise ValueError("attempts must be at least 1")

    async def outcome(self, gid: str) -> Outcome:
        """What became of a transaction, of this process or any other, while its decision is retained."""
        return await self.engine.outcome(gid)

    async def in_doubt(self) -> list[Doubt]:
        """What is prepared or decided and not finished. Touches nothing."""
        return await self.engine.in_doubt()

    async def settle(self, *, grace_s: float | None = None) -> SettleReport:
        """One round of settling now."""
        return await self.engine.settle(grace_s=grace_s)
