"""Virtual time: one schedule for the whole world, and an asyncio loop for each process in it.

A process is a loop: killing it means that its callbacks never run again, pausing it that they are withheld. Nothing here waits
in real time, and nothing depends on the order of a set or on an address.
"""

from __future__ import annotations

import asyncio
from asyncio.events import _set_running_loop
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from heapq import heappop, heappush
from inspect import CORO_CREATED, getcoroutinestate, iscoroutine
from typing import Any, cast

#: A task that was left behind is closed this often: its clean-up may wait, and there is nothing left to wait for.
CLOSES_MAX = 8


class Died(BaseException):
    """The process is dead: nothing that it does from now on has an effect."""


class Handle(list[Any]):
    """A call that a process is to make: callback, arguments, context, loop. A list, because making one runs no Python."""

    __slots__ = ()

    def cancel(self) -> None:
        """Forget it."""
        self[0] = None

    def cancelled(self) -> bool:
        """Whether it was forgotten."""
        return self[0] is None


#: A call of the world outside all processes, which has no context and no loop.
WorldCall = tuple[Callable[..., object], tuple[Any, ...], None, None]


class Schedule:
    """Everything that is going to happen, in the order of virtual time and then of asking."""

    def __init__(self) -> None:
        #: Seconds since the world began.
        self.now = 0.0
        #: The process that runs; behind a call of the world, the one that ran last.
        self.running: ProcessLoop | None = None
        #: What happens now, in the order of asking.
        self.ready: deque[Handle] = deque()
        self._later: list[tuple[float, int, Handle | WorldCall]] = []
        self._order = 0
        #: What callbacks raised: always a bug, of the library or of the simulation.
        self.bugs: list[BaseException] = []

    def at(self, moment: float, callback: Callable[..., object], *args: Any) -> None:
        """Let the world do something at a moment."""
        self._order = order = self._order + 1
        heappush(self._later, (moment, order, (callback, args, None, None)))

    def after(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        """Let the world do something later."""
        self.at(self.now + seconds, callback, *args)

    def push(self, moment: float, handle: Handle) -> None:
        """Let a process do something at a moment."""
        self._order = order = self._order + 1
        heappush(self._later, (moment, order, handle))

    def run(self, until: float, steps_max: int) -> None:
        """Let things happen up to a moment. Raises RuntimeError when that takes more steps than it ever should."""
        ready, later = self.ready, self._later
        steps = 0
        try:
            while True:
                if ready:
                    callback, args, context, loop = handle = ready.popleft()
                elif later and later[0][0] <= until:
                    moment, _, handle = heappop(later)  # type: ignore[assignment]
                    callback, args, context, loop = handle
                    if callback is not None and moment > self.now:
                        self.now = moment
                else:
                    break
                if callback is None:
                    continue
                steps += 1
                if steps > steps_max:
                    raise RuntimeError(f"more than {steps_max} steps: the world spins")
                try:
                    if loop is None:
                        callback(*args)
                    elif loop.paused:
                        loop.withheld.append(handle)
                    elif not loop.dead:
                        if loop is not self.running:
                            self.enter(loop)
                        context.run(callback, *args)
                except Exception as error:
                    self.bugs.append(error)
        finally:
            self.enter(None)
        self.now = max(self.now, until)

    def enter(self, loop: ProcessLoop | None) -> None:
        """From now on it is that process that runs."""
        self.running = loop
        _set_running_loop(loop._asyncio_loop if loop is not None else None)


class ProcessLoop:
    """The loop of one simulated process: as much of ``asyncio.AbstractEventLoop`` as works without the outside."""

    def __init__(self, schedule: Schedule, name: str) -> None:
        self.schedule = schedule
        self._ready = schedule.ready
        self._asyncio_loop: Any = self
        self.name = name
        #: The process that it is, for those who find only its loop.
        self.owner: Any = None
        self.dead = False
        self.paused = False
        self.withheld: list[Handle] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self.create_future = partial(asyncio.Future, loop=cast(asyncio.AbstractEventLoop, self))

    def kill(self) -> None:
        """From now on nothing of this process happens."""
        self.dead = True
        self.paused = False
        self.withheld.clear()

    def pause(self) -> None:
        """Withhold everything, as SIGSTOP does."""
        self.paused = not self.dead

    def resume(self) -> None:
        """Let everything happen that was withheld."""
        self.paused = False
        self._ready.extend(self.withheld)
        self.withheld.clear()

    def bury(self) -> None:
        """After the end of the world: close what never came to its end, so that nothing runs when it is collected."""
        self.kill()
        # Clean-up asks for the running loop, and may make further tasks.
        self.schedule.enter(self)
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                _close(task.get_coro())
        self.schedule.enter(None)
        self._tasks.clear()

    # What asyncio asks of a loop

    def time(self) -> float:
        return self.schedule.now

    def is_running(self) -> bool:
        return not self.dead and not self.paused

    def is_closed(self) -> bool:
        return self.dead

    # Both are asked for with every future, and so no functions of Python; the second one is made with the loop.
    get_debug = staticmethod(bool)
    create_future: Callable[[], asyncio.Future[Any]]

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Handle:
        handle = Handle((callback, args, copy_context() if context is None else context, self))
        if not self.dead:
            self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Handle:
        handle = Handle((callback, args, copy_context() if context is None else context, self))
        if not self.dead:
            self.schedule.push(self.schedule.now + delay, handle)
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Handle:
        return self.call_later(when - self.schedule.now, callback, *args, context=context)

    def create_task(self, coro: Any, *, name: object = None, context: Any = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self._asyncio_loop, name=str(name or "step"), context=context)
        self._tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """What nobody waited for: a future of a connection that was cut, mostly. Callbacks that raise are bugs: see run."""


def _close(coroutine: Any) -> None:
    if iscoroutine(coroutine) and getcoroutinestate(coroutine) == CORO_CREATED and coroutine.cr_frame is not None:
        # What it was to run has not begun either.
        for value in coroutine.cr_frame.f_locals.values():
            if iscoroutine(value):
                value.close()
    for _ in range(CLOSES_MAX):
        try:
            coroutine.close()
        except RuntimeError:
            # Its clean-up waited for something.
            continue
        except (Exception, Died):
            return
        return
