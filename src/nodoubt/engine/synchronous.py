"""The public shell for programs of threads. One manager serves any number of them at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import Any, TypeVar, Unpack

from nodoubt.engine.config import Config
from nodoubt.engine.engine import Engine
from nodoubt.engine.request import Wishes
from nodoubt.engine.retry import backoff_s
from nodoubt.engine.settle import Doubt, SettleReport
from nodoubt.engine.shell import ManagerShell, TransactionShell
from nodoubt.engine.work import Work
from nodoubt.engine.worlds import ThreadWorld, run_now
from nodoubt.errors import Aborted, NodoubtError, Outcome

logger = logging.getLogger("nodoubt")
T = TypeVar("T")


class Transaction(TransactionShell):
    """A transaction: ``with tm.transaction() as tx``. It belongs to the thread that opened it."""

    def on(self, name: str, *, read_only: bool = False) -> Any:
        """The driver's own connection to a node, in this transaction.

        Raises ConfigError for an unknown name and NodeUnavailable when the node or its pool cannot serve. The connection
        is usable until the block ends; calling commit, rollback or the like on it raises GuardError.
        """
        self._require_entered()
        return run_now(self._work.on(name, read_only=read_only))

    def rollback(self, reason: str = "rolled back by the caller") -> None:
        """Undo everything now. Leaving the block afterwards is no error."""
        run_now(self._work.roll_back(reason))

    def __enter__(self) -> Transaction:
        if self._work.opens_at_begin:
            run_now(self._work.open_named())
        self._is_entered = True
        # A thread that waits for a server can be woken only by cutting the line it waits on.
        self._work.interrupt = self._work.sever
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work.interrupt = None
        if error is None:
            if self._work.is_open:
                run_now(self._work.commit())
            return
        run_now(self._work.roll_back(f"{type(error).__name__}: {error}"))
        self._tell(error)
        if self._work.expired and isinstance(error, Exception) and not isinstance(error, NodoubtError):
            # Most likely the driver's error about the line that the deadline cut.
            raise self._work.timed_out() from error


class Snapshot:
    """One instant of several nodes, to read: ``with tm.snapshot() as view``."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._transaction = Transaction(work)

    def __enter__(self) -> Snapshot:
        self._transaction.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was read was read: that a line is lost when nothing is left to do takes nothing back.
        with suppress(Aborted) if error is None else nullcontext():
            self._transaction.__exit__(kind, error, trace)

    def on(self, name: str) -> Any:
        """The driver's own connection to a node. Raises GuardError for one that is not in the snapshot."""
        return self._transaction.on(name, read_only=True)

    def another(self, name: str) -> Any:
        """One more connection that shows the same, to read in several threads at once. PostgreSQL only, else ConfigError."""
        return run_now(self._work.share(name))


class TransactionManager(ManagerShell):
    """Opens transactions over the configured nodes, and settles in a thread of its own. See :meth:`open`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._world: ThreadWorld | None = None
        self._background: threading.Thread | None = None
        self._nudged = threading.Event()
        self._closing = False

    def __enter__(self) -> TransactionManager:
        self._closing = False
        self._world = ThreadWorld()
        try:
            self._engine = self._make_engine(self._world)
            self._engine.nudge = self._nudged.set
            run_now(self._engine.open())
        except BaseException:
            self._world.close()
            raise
        self._background = threading.Thread(
            target=self._tend, args=(self._engine,), name="nodoubt-settler", daemon=True
        )
        self._background.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing = True
        self._nudged.set()
        if self._background is not None:
            self._background.join()
        if self._engine is not None:
            run_now(self._engine.close())
        if self._world is not None:
            self._world.close()

    def _tend(self, engine: Engine) -> None:
        while True:
            # Cleared before looking, so that no nudge is lost.
            self._nudged.clear()
            if self._closing:
                return
            try:
                pause_s = run_now(engine.tend())
            except Exception:
                logger.exception("the background settler met a bug and goes on")
                pause_s = engine.settings.settle_every_s
            self._nudged.wait(pause_s)

    def transaction(
        self, *, timeout: float | None = None, home: str | None = None, **wishes: Unpack[Wishes]
    ) -> Transaction:
        """Begin a transaction: leaving the block commits everywhere, an exception in it rolls back everywhere.

        ``timeout`` is in seconds and ends at the decision: until then a call that waits for a server is cut off, and the
        block raises Aborted. ``home`` names the node that carries the decision; by default it is the first one enlisted.
        Leaving the block raises Aborted, OutcomeUnknown or HeuristicOutcome.

        ``isolation``, ``nodes``, ``reads`` and ``keys`` are explained at :meth:`AsyncTransactionManager.transaction`.
        """
        return Transaction(self.engine.begin(home=home, timeout_s=timeout, **wishes))

    def snapshot(self, *nodes: str, max_age: float | None = None) -> Snapshot:
        """Open a view of several nodes at one instant: see :meth:`AsyncTransactionManager.snapshot`."""
        return Snapshot(
            self.engine.begin(
                timeout_s=max_age, isolation="snapshot", nodes=(), reads=nodes or tuple(self.engine.nodes)
            )
        )

    def run(
        self,
        function: Callable[[Transaction], T],
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
                with Transaction(work) as tx:
                    return function(tx)
            except Exception as error:
                if attempt == attempts or not work.may_retry(error):
                    raise
                run_now(self.engine.world.sleep(backoff_s(attempt, self.engine.world)))
        raise ValueError("attempts must be at least 1")

    def outcome(self, gid: str) -> Outcome:
        """What became of a transaction, of this process or any other, while its decision is retained."""
        return run_now(self.engine.outcome(gid))

    def in_doubt(self) -> list[Doubt]:
        """What is prepared or decided and not finished. Touches nothing."""
        return run_now(self.engine.in_doubt())

    def settle(self, *, grace_s: float | None = None) -> SettleReport:
        """One round of settling now."""
        return run_now(self.engine.settle(grace_s=grace_s))
