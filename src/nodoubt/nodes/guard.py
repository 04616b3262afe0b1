"""Guard rails: what stands between the user and the driver's own connection.

A :class:`Guard` lives as long as one branch. The guarded subclasses in the driver files ask it before each statement; the
:class:`BranchConnection` that the user holds asks it before each attribute, so that a connection that leaked out of its block
is dead although the session behind it serves somebody else by then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from inspect import iscoroutinefunction
from types import MethodType, TracebackType
from typing import Any, ClassVar

from nodoubt.errors import GuardError
from nodoubt.nodes.statements import Reading, Rules, read


class Guard(AbstractContextManager["Guard"]):
    """The rules of one branch, and what was seen of it.

    ``remembers_failures`` is for databases that would commit a transaction in which a statement failed.
    """

    __slots__ = (
        "_busy",
        "_closing",
        "_failed_at",
        "_reading",
        "_savepoints",
        "failure",
        "gid",
        "is_closed",
        "is_home",
        "is_outside",
        "lasting",
        "misuse",
        "node",
        "rules",
    )

    def __init__(
        self, node: str, gid: str, rules: Rules, *, is_home: bool, is_outside: Callable[[], bool] = bool
    ) -> None:
        self.node = node
        self.gid = gid
        self.rules = rules
        self.is_home = is_home
        #: Whether the transaction ended, by a statement that no rule saw; nobody looks by default.
        self.is_outside = is_outside
        self.misuse: GuardError | None = None
        #: The first failed statement that no savepoint has undone.
        self.failure: BaseException | None = None
        self._failed_at = 0
        #: Something outlives the transaction in this session: it must not serve anybody else.
        self.lasting = False
        #: The branch was fenced or is over.
        self.is_closed = False
        self._closing: BaseException | None = None
        #: Held during a statement. A lock, because two threads may ask at once.
        self._busy = threading.Lock()
        self._savepoints: list[str] = []
        self._reading: Reading | None = None

    def close(self, error: BaseException | None = None) -> None:
        """From now on every use raises ``error``; by default it says that the transaction is over."""
        if not self.is_closed:
            self.is_closed = True
            self._closing = error

    def check_open(self) -> None:
        """Raise if the branch was fenced or is over."""
        if self.is_closed:
            raise self._closing or GuardError(
                f"the transaction is over: its connection to {self.node!r} cannot be used any more", gid=self.gid
            )

    def refuse(self, what: str, why: str, hint: str = "") -> GuardError:
        """Note that a rule was broken, which dooms the whole transaction, and return the error to raise."""
        error = GuardError(f"{what} on node {self.node!r}: {why}", gid=self.gid, hint=hint)
        if self.misuse is None:
            self.misuse = error
        return error

    def statement(self, sql: str) -> Guard:
        """Enter one statement: ``with guard.statement(sql): …``. Raises GuardError if a rule forbids it."""
        self.check_open()
        if not self._busy.acquire(blocking=False):
            raise self.refuse(
                f"two operations at once ({shorten(sql)})",
                "one connection serves one task at a time",
                "await each call before the next, or give each task a transaction of its own",
            )
        if self.failure is not None and self.is_outside():
            self._busy.release()
            raise self._over_behind("the statement that failed")
        reading = read(sql, self.rules)
        for text, rule in reading.broken:
            if not (rule.home_may and self.is_home):
                self._busy.release()
                raise self.refuse(shorten(text), rule.why)
        if reading.lasting:
            self.lasting = True
        self._reading = reading
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the statement, noting whether it failed and its savepoints. Raises GuardError if it ended the transaction."""
        if error is not None:
            self.failed(error)
        elif self._reading is not None:
            for step, name in self._reading.savepoints:
                self.savepoint(step, name)
        self._busy.release()
        if error is None and self.is_outside():
            raise self._over_behind("this statement")

    def _over_behind(self, what: str) -> GuardError:
        return self.refuse(
            f"the transaction is over behind {what}",
            "the block ends the transaction by itself",
            "what came before it in the block may be committed here: look at the data",
        )

    @property
    def objection(self) -> GuardError | None:
        """What forbids a commit: a rule that was broken, or a statement that still runs, whose end nobody would hear of."""
        if self.misuse is not None or not self._busy.locked():
            return self.misuse
        return GuardError(
            f"a statement is still running on node {self.node!r}: the block ends when all of its statements have",
            gid=self.gid,
            hint="await each call, or join the thread that makes it, before the block ends",
        )

    def follow(self, sql: str) -> None:
        """Take note of the savepoints in a text that the driver itself sent."""
        for step, name in read(sql, self.rules).savepoints:
            self.savepoint(step, name)

    def failed(self, error: BaseException) -> None:
        """A statement failed: unless a savepoint from before it is restored, the branch must not commit."""
        if self.failure is None:
            self.failure = error
            self._failed_at = len(self._savepoints)

    def savepoint(self, step: str, name: str) -> None:
        """Follow the stack of savepoints; ``step`` is ``set``, ``to`` or ``release``."""
        if step == "set":
            self._savepoints.append(name)
            return
        if name not in self._savepoints:
            return
        index = len(self._savepoints) - 1 - self._savepoints[::-1].index(name)
        if step == "release":
            del self._savepoints[index:]
            self._failed_at = min(self._failed_at, index)
            return
        del self._savepoints[index + 1 :]
        # A failure inside the savepoint is undone with it; one from before it is not.
        if self._failed_at > index:
            self.failure = None


class BranchConnection:
    """The driver's own connection, for as long as its block lasts. ``isinstance`` sees the driver's class."""

    __slots__ = ("_guard", "_raw")
    #: Why an attribute may not be used (``name=``: may not be set); "" for one that may, and leaves something in the session.
    _limits: ClassVar[Mapping[str, str]] = {}
    _guard: Guard
    _raw: Any

    def __init__(self, raw: Any, guard: Guard) -> None:
        put = object.__setattr__
        put(self, "_raw", raw)
        put(self, "_guard", guard)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._raw)

    def __getattr__(self, name: str) -> Any:
        if self._guard.is_closed or name in self._limits:
            self._check(name, f"{name}()")
        found = getattr(self._raw, name)
        return _dying(found, self._guard) if isinstance(found, MethodType) else found

    def __setattr__(self, name: str, value: Any) -> None:
        self._check(f"{name}=", f"setting {name}")
        self._guard.lasting = True
        setattr(self._raw, name, value)

    def _check(self, name: str, use: str) -> None:
        self._guard.check_open()
        why = self._limits.get(name)
        if why:
            raise self._guard.refuse(use, why)
        if why is not None:
            self._guard.lasting = True

    def __repr__(self) -> str:
        return f"<connection of transaction {self._guard.gid} on node {self._guard.node!r}: {self._raw!r}>"

    def __enter__(self) -> Any:
        return self.__getattr__("__enter__")()

    def __exit__(self, *error: Any) -> Any:
        return self.__getattr__("__exit__")(*error)

    async def __aenter__(self) -> Any:
        return await self.__getattr__("__aenter__")()

    async def __aexit__(self, *error: Any) -> Any:
        return await self.__getattr__("__aexit__")(*error)


_is_async = lru_cache(maxsize=256)(iscoroutinefunction)


def _dying(method: MethodType, guard: Guard) -> Callable[..., Any]:
    """A method that dies with its branch: the driver's own goes on to serve the session's next one."""

    def call(*args: Any, **options: Any) -> Any:
        guard.check_open()
        return method(*args, **options)

    async def call_async(*args: Any, **options: Any) -> Any:
        guard.check_open()
        return await method(*args, **options)

    dying = call_async if _is_async(method.__func__) else call
    dying.__name__, dying.__doc__ = method.__name__, method.__doc__
    return dying


def shorten(sql: str, characters: int = 80) -> str:
    """A statement as it appears in messages: one line, bounded."""
    line = " ".join(sql.split())
    return line if len(line) <= characters else line[: characters - 1] + "…"
