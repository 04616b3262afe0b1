"""Virtual time: one schedule for the whole world, and an asyncio loop for each process in it.

A process is a loop: killing it means that its callbacks never run again, pausing it that they are withheld. Nothing here waits
in real time, and nothing depends on the order of a set or on an address.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from asyncio.events import _set_running_loop
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

#: A task that was left behind is closed this often: its clean-up may wait, and there is nothing left to wait for.
CLOSES_MAX = 8


class Handle:
    """A call that is to happen; ``loop`` is the process that makes it, None for the world outside all processes."""

    __slots__ = ("args", "callback", "context", "loop", "moment")

    def __init__(
        self,
        moment: float,
        loop: ProcessLoop | None,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> None:
        self.moment = moment
        self.loop = loop
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context

    def cancel(self) -> None:
        """Forget it."""
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        """Whether it was forgotten."""
        return self.callback is None

    def when(self) -> float:
        """Its virtual time."""
        return self.moment


class Schedule:
    """Everything that is going to happen, in the order of virtual time and then of asking."""

    def __init__(self) -> None:
        #: Seconds since the world began.
        self.now = 0.0
        self.steps = 0
        #: What happens now, in the order of asking.
        self.ready: deque[Handle] = deque()
        self._later: list[tuple[float, int, Handle]] = []
        self._order = 0
        #: What callbacks raised: always a bug, of the library or of the simulation.
        self.bugs: list[BaseException] = []

    def at(self, moment: float, callback: Callable[..., object], *args: Any) -> Handle:
        """Let the world do something at a moment."""
        handle = Handle(moment, None, callback, args, None)
        self._order += 1
        heapq.heappush(self._later, (moment, self._order, handle))
        return handle

    def after(self, seconds: float, callback: Callable[..., object], *args: Any) -> Handle:
        """Let the world do something later."""
        return self.at(self.now + seconds, callback, *args)

    def push(self, handle: Handle) -> None:
        """Put a handle at its moment."""
        self._order += 1
        heapq.heappush(self._later, (handle.moment, self._order, handle))

    def run(self, until: float, steps_max: int) -> None:
        """Let things happen up to a moment. Raises RuntimeError when that takes more steps than it ever should."""
        ready, later = self.ready, self._later
        last: ProcessLoop | None = None
        steps_end = self.steps + steps_max
        try:
            while True:
                if ready:
                    handle = ready.popleft()
                elif later and later[0][0] <= until:
                    moment, _, handle = heapq.heappop(later)
                    if handle.callback is None:
                        continue
                    self.now = max(self.now, moment)
                else:
                    break
                callback, loop = handle.callback, handle.loop
                if callback is None:
                    continue
                self.steps += 1
                if self.steps > steps_end:
                    raise RuntimeError(f"more than {steps_max} steps: the world spins")
                try:
                    if loop is None:
                        callback(*handle.args)
                    elif loop.paused:
                        loop.withheld.append(handle)
                    elif not loop.dead:
                        if loop is not last:
                            _set_running_loop(loop._asyncio_loop)
                            last = loop
                        handle.context.run(callback, *handle.args)  # type: ignore[union-attr]
                except Exception as error:
                    self.bugs.append(error)
        finally:
            _set_running_loop(None)
        self.now = max(self.now, until)


class ProcessLoop:
    """The loop of one simulated process: as much of ``asyncio.AbstractEventLoop`` as works without the outside."""

    def __init__(self, schedule: Schedule, name: str) -> None:
        self.schedule = schedule
        self._asyncio_loop: Any = self
        self.name = name
        #: The process that it is, for those who find only its loop.
        self.owner: Any = None
        self.dead = False
        self.paused = False
        self.withheld: list[Handle] = []
        self._tasks: list[asyncio.Task[Any]] = []

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
        for handle in self.withheld:
            self.schedule.ready.append(handle)
        self.withheld.clear()

    def bury(self) -> None:
        """After the end of the world: close what never came to its end, so that nothing runs when it is collected."""
        self.kill()
        # Clean-up asks for the running loop, and may make further tasks.
        _set_running_loop(self._asyncio_loop)
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                _close(task.get_coro())
        _set_running_loop(None)
        self._tasks.clear()

    # What asyncio asks of a loop

    def time(self) -> float:
        return self.schedule.now

    def is_running(self) -> bool:
        return not self.dead and not self.paused

    def is_closed(self) -> bool:
        return self.dead

    def get_debug(self) -> bool:
        return False

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Handle:
        handle = Handle(self.schedule.now, self, callback, args, context or contextvars.copy_context())
        if not self.dead:
            self.schedule.ready.append(handle)
        return handle

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Handle:
        return self.call_at(self.schedule.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Handle:
        handle = Handle(when, self, callback, args, context or contextvars.copy_context())
        if not self.dead:
            self.schedule.push(handle)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._asyncio_loop)

    def create_task(self, coro: Any, *, name: object = None, context: Any = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self._asyncio_loop, name=str(name or "step"), context=context)
        self._tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """What nobody waited for: a future of a connection that was cut, mostly. Callbacks that raise are bugs: see run."""


def _close(coroutine: Coroutine[Any, Any, Any] | Any) -> None:
    for _ in range(CLOSES_MAX):
        try:
            coroutine.close()
        except RuntimeError:
            # Its clean-up waited for something.
            continue
        except Exception:
            return
        return
