"""Every call fails once: counts what a process asks of the outside, and lets the one that was chosen fail.

A *call* is what a driver sends, a connection that it opens or closes, a statement or a forced write of a SQLite-like database,
a call of the files beside it. An *await* is a moment at which one of the process's tasks waits. Whatever has no error of its own
fails by cancellation or by the deadline of the caller instead.
"""

from __future__ import annotations

import errno
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from nodoubt.errors import NodeUnavailable
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.sim.driver import SimulatedDriver, SimulatedSession
from nodoubt.sim.loop import Died, ProcessLoop
from nodoubt.sim.machine import Machine, SimulatedFiles
from nodoubt.sim.postgresql import PostgreSQLServer
from nodoubt.sim.seam import swapped
from nodoubt.sim.server import Backend, Packet, Server, Steps
from nodoubt.sim.sqlite import SimulatedSQLite
from nodoubt.sim.sqlite_node import SimulatedSessions
from nodoubt.sim.store import SqlError

#: A *packet* is a call that a server can refuse.
Site = Literal["call", "packet", "await"]

#: What the driver or the disk reports, or how the process ends; before the call has an effect, or after it.
ERRORS = ("error before", "error after")
CRASHES = ("crash before", "crash after")
#: The whole machine ends, and its disk forgets what was not forced.
POWER = ("power lost before", "power lost after")
#: The server answers with an error, before anything of the packet was done.
REFUSED = "refused"
#: What can happen to who waits: his caller gives up, or has waited for too long.
CALLER = ("cancelled", "timed out")

#: What a server says that refuses, by its kind.
OUT_OF_MEMORY = {"postgresql": ("53200", "out of memory"), "mariadb": ("1041", "Out of memory")}
#: The calls of files that can fail.
FILES = ("create", "write", "fsync", "close", "rename", "unlink", "fsync_folder", "status", "read")


@dataclass(frozen=True, slots=True)
class Strike:
    """The ``number``-th call or await fails; counted from 1, and from the strike before."""

    site: Site
    number: int
    mode: str

    def __str__(self) -> str:
        return f"{self.site} {self.number}: {self.mode}"


class Victim(Protocol):
    """Who is struck."""

    def kill(self, loop: ProcessLoop, *, with_machine: bool) -> None: ...

    def cancel(self) -> None: ...

    def time_out(self) -> None: ...


class Fuse:
    """Counts, while it is armed, and strikes."""

    def __init__(self, victim: Victim, strikes: Sequence[Strike]) -> None:
        self.armed = False
        #: A call is under way that is to fail when it has had its effect.
        self.smoulders = False
        #: What was struck, for people.
        self.struck: list[str] = []
        self._victim = victim
        self._left = deque(strikes)
        self._seen: Counter[Site] = Counter()

    def meets(self, site: Site, loop: ProcessLoop, what: str) -> str:
        """How this call or await is to fail, "" if it is not."""
        if not self.armed or not self._left or loop.dead:
            return ""
        self._seen[site] += 1
        strike = self._left[0]
        if (strike.site, strike.number) != (site, self._seen[site]):
            return ""
        self._left.popleft()
        self._seen.clear()
        self.struck.append(f"{strike} ({what})")
        return strike.mode

    def kill(self, loop: ProcessLoop, mode: str) -> None:
        """The process is gone."""
        self.smoulders = False
        self._victim.kill(loop, with_machine=mode in POWER)

    def strike_caller(self, loop: ProcessLoop, mode: str) -> None:
        """Let the caller give up."""
        loop.call_soon(self._victim.cancel if mode == "cancelled" else self._victim.time_out)

    async def around(
        self, loop: ProcessLoop, what: str, call: Callable[[], Coroutine[Any, Any, Any]], fail: Callable[[], Any]
    ) -> Any:
        """A call that waits. ``fail`` raises what the driver would raise, or returns."""
        mode = self.meets("call", loop, what)
        if not mode:
            return await call()
        if mode.endswith("after"):
            self.smoulders = True
            try:
                await call()
            except (ConnectionLost, StatementFailed, NodeUnavailable):
                """Nobody learns of it."""
            finally:
                self.smoulders = False
        if mode not in ERRORS:
            self.kill(loop, mode)
            await loop.create_future()
        return fail()

    def around_now(
        self, loop: ProcessLoop, what: str, call: Callable[[], Any], fail: Callable[[bool], BaseException]
    ) -> Any:
        """A call that does not wait. ``fail`` makes the error, told whether the call was made before."""
        mode = self.meets("call", loop, what)
        if not mode:
            return call()
        is_after = mode.endswith("after")
        if is_after:
            try:
                call()
            except (OSError, ConnectionLost, StatementFailed):
                """Nobody learns of it."""
        if mode not in ERRORS:
            self.kill(loop, mode)
            raise Died
        raise fail(is_after)


@contextmanager
def laid(fuse: Fuse) -> Iterator[None]:
    """Let every call and every await of simulated processes pass by a fuse."""
    with ExitStack() as stack:
        for seam in (_servers, _files, _sqlite, _tasks):
            for owner, name, other in seam(fuse):
                stack.enter_context(swapped(owner, name, other))
        yield


Swaps = Iterator[tuple[type[Any], str, Callable[..., Any]]]


def _servers(fuse: Fuse) -> Swaps:
    connect, call, close = SimulatedDriver.connect, SimulatedSession.call, SimulatedSession.close
    carry_out = Server.carry_out
    #: Server, session and number of a packet.
    refused: set[tuple[str, int, int]] = set()

    async def counted_connect(self: SimulatedDriver, settings: Any) -> Any:
        made: list[SimulatedSession] = []

        async def make() -> SimulatedSession:
            made.append(await connect(self, settings))
            return made[0]

        def fail() -> None:
            for session in made:
                session.abandon()
            raise NodeUnavailable("the connection was lost while it was opened")

        return await fuse.around(self._loop, "connect", make, fail)

    async def counted_call(self: SimulatedSession, text: str, values: Any = (), *, by_user: bool = False) -> Any:
        def fail() -> None:
            self.abandon()
            raise ConnectionLost("the connection broke")

        if fuse.meets("packet", self.loop, text):
            backend = self._line.backend
            refused.add((backend.server.name, backend.number, self._number + 1))
        return await fuse.around(self.loop, text, lambda: call(self, text, values, by_user=by_user), fail)

    async def counted_close(self: SimulatedSession) -> None:
        # As the drivers do: a goodbye that fails is nobody's trouble.
        await fuse.around(self.loop, "close", lambda: close(self), self.abandon)

    def counted_carry_out(self: Server, backend: Backend, packet: Packet) -> Steps:
        if (self.name, backend.number, packet.number) in refused:
            if isinstance(self, PostgreSQLServer) and not backend.failed:
                self.abort(backend)
            raise SqlError(*OUT_OF_MEMORY[self.kind])
        return (yield from carry_out(self, backend, packet))

    yield Server, "carry_out", counted_carry_out
    yield SimulatedDriver, "connect", counted_connect
    yield SimulatedSession, "call", counted_call
    yield SimulatedSession, "close", counted_close


def _files(fuse: Fuse) -> Swaps:
    def counting(name: str) -> Callable[..., Any]:
        call = getattr(SimulatedFiles, name)

        def counted(self: SimulatedFiles, *arguments: Any) -> Any:
            return fuse.around_now(
                self._loop,
                f"{name} of {arguments[0]}",
                lambda: call(self, *arguments),
                lambda is_after: OSError(errno.EIO, "Input/output error"),
            )

        return counted

    for name in FILES:
        yield SimulatedFiles, name, counting(name)


def _sqlite(fuse: Fuse) -> Swaps:
    new, command, step = SimulatedSessions.new, SimulatedSQLite.command, Machine.step
    commit = _Commit(fuse)

    def counted_new(self: SimulatedSessions, *, for_branch: bool = False) -> Any:
        made: list[SimulatedSQLite] = []

        def make() -> SimulatedSQLite:
            made.append(new(self, for_branch=for_branch))
            return made[0]

        def fail(is_after: bool) -> StatementFailed:
            for session in made:
                session.close()
            return StatementFailed("SQLITE_CANTOPEN", "unable to open database file")

        return fuse.around_now(self._loop, "open", make, fail)

    def counted_command(self: SimulatedSQLite, sql: str, *values: Any) -> Any:
        if sql == "COMMIT":
            with commit.open():
                return command(self, sql, *values)

        def fail(is_after: bool) -> StatementFailed:
            if is_after:
                # SQLite's "Response To Errors Within A Transaction": everything may be rolled back.
                self._release()
            return StatementFailed("SQLITE_IOERR", "disk I/O error")

        return fuse.around_now(self.loop, sql, lambda: command(self, sql, *values), fail)

    def counted_step(self: Machine, loop: ProcessLoop, what: str = "") -> None:
        step(self, loop, what)
        commit.step(self, loop)

    yield SimulatedSessions, "new", counted_new
    yield SimulatedSQLite, "command", counted_command
    yield Machine, "step", counted_step


class _Commit:
    """The two calls of a commit, which is written, then forced, then seen."""

    def __init__(self, fuse: Fuse) -> None:
        self._fuse = fuse
        self._steps: Iterator[str] = iter(())
        self._dies = ""

    @contextmanager
    def open(self) -> Iterator[None]:
        self._steps = iter(("COMMIT: write", "COMMIT: force"))
        try:
            yield
        finally:
            self._steps, self._dies = iter(()), ""

    def step(self, machine: Machine, loop: ProcessLoop) -> None:
        """Before each of the two, and behind the last."""
        fuse, what = self._fuse, next(self._steps, "")
        mode = self._dies or (what and fuse.meets("call", loop, what))
        if mode in ERRORS:
            if mode == "error before" and what.endswith("write"):
                raise StatementFailed("SQLITE_FULL", "database or disk is full")
            # A forced write that fails leaves open whether what was written will be found.
            machine.disk.fails = True
        elif mode.endswith("after") and not self._dies:
            self._dies = mode
        elif mode:
            fuse.kill(loop, mode)
            raise Died


def _tasks(fuse: Fuse) -> Swaps:
    create_task = ProcessLoop.create_task

    def counted_task(self: ProcessLoop, coro: Any, *, name: object = None, context: Any = None) -> Any:
        return create_task(self, _Watched(coro, fuse, self), name=name, context=context)

    yield ProcessLoop, "create_task", counted_task


class _Watched(Coroutine[Any, Any, Any]):
    """The steps of a task, of which each but the last ends with waiting for something."""

    def __init__(self, steps: Coroutine[Any, Any, Any], fuse: Fuse, loop: ProcessLoop) -> None:
        self._steps = steps
        self._fuse = fuse
        self._loop = loop
        self._dies = ""

    def send(self, value: Any) -> Any:
        return self._step(lambda: self._steps.send(value))

    def throw(self, *error: Any) -> Any:
        return self._step(lambda: self._steps.throw(*error))

    def close(self) -> None:
        self._steps.close()

    def __await__(self) -> Any:
        raise NotImplementedError("a task steps it")

    def _step(self, step: Callable[[], Any]) -> Any:
        loop, fuse = self._loop, self._fuse
        if self._dies:
            fuse.kill(loop, self._dies)
            return next(iter(loop.create_future()))
        awaited = step()
        mode = fuse.meets("await", loop, getattr(self._steps, "__qualname__", "await"))
        if mode in CALLER:
            fuse.strike_caller(loop, mode)
        elif mode.endswith("after"):
            self._dies, fuse.smoulders = mode, True
        elif mode:
            fuse.kill(loop, mode)
        return awaited
