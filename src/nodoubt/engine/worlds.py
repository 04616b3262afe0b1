"""The two worlds in which the engine really runs: asyncio, and threads. The only file that reads a clock."""

from __future__ import annotations

import asyncio
import collections
import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from nodoubt.errors import InvariantBroken

logger = logging.getLogger("nodoubt")

T = TypeVar("T")

#: Threads for steps that run at once and for deadlines of one manager; branches beyond that wait for a free one.
THREADS_MAX = 64


class _Clock:
    def loop(self) -> object:
        return None

    def now(self) -> float:
        return time.monotonic()

    def unix_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def random(self, count: int) -> bytes:
        return os.urandom(count)


class _AsyncTurns:
    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    def take_now(self) -> bool:
        self._loop = asyncio._get_running_loop()
        if self._free:
            self._free -= 1
            return True
        return False

    async def take(self, timeout_s: float) -> bool:
        if self.take_now():
            return True
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(timeout_s):
                await turn
        except BaseException as error:
            # A turn that was handed over while the waiter gave up must not be lost.
            if turn.done() and not turn.cancelled():
                self.give_back()
            if isinstance(error, TimeoutError):
                return False
            raise
        return True

    def give_back(self) -> None:
        # A session may be closed by another thread than the loop's.
        if self._loop is not None and asyncio._get_running_loop() is not self._loop:
            try:
                self._loop.call_soon_threadsafe(self._hand_on)
                return
            except RuntimeError:
                # The loop is closed: nobody waits.
                self._waiting.clear()
        self._hand_on()

    def _hand_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class AsyncWorld(_Clock):
    """asyncio: steps suspend."""

    interrupts = True

    def loop(self) -> object:
        return asyncio._get_running_loop()

    def turns(self, count: int) -> _AsyncTurns:
        return _AsyncTurns(count)

    def later(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, call)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def together(self, steps: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        others = [asyncio.create_task(step) for step in steps[1:]]
        try:
            # The first one in the caller's own task: a switch of tasks less.
            results = [await step for step in steps[:1]]
            return results + [await other for other in others]
        except asyncio.CancelledError:
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            raise

    async def aside(self, call: Callable[[], T]) -> T:
        return await asyncio.to_thread(call)


def run_now(step: Coroutine[Any, Any, T]) -> T:
    """Run a step of a world of threads: it never suspends, so one ``send`` takes it to its end."""
    try:
        step.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    step.close()
    raise InvariantBroken("a step suspended in a world of threads: an asynchronous driver was configured")


class _ThreadTurns:
    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._waiting: collections.deque[threading.Event] = collections.deque()

    def take_now(self) -> bool:
        with self._lock:
            if self._free:
                self._free -= 1
                return True
        return False

    async def take(self, timeout_s: float) -> bool:
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            turn = threading.Event()
            self._waiting.append(turn)
        try:
            return turn.wait(timeout_s) or not self._withdraw(turn)
        except BaseException:
            # A signal's handler raised: a turn that came meanwhile is nobody's.
            if not self._withdraw(turn):
                self.give_back()
            raise

    def _withdraw(self, turn: threading.Event) -> bool:
        """Stop waiting; False if the turn has come."""
        with self._lock:
            if waits := turn in self._waiting:
                self._waiting.remove(turn)
            return waits

    def give_back(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1


class _ThreadAlarm:
    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class _Alarms:
    """All alarms of a world in one thread, started with the first alarm."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._heap: list[tuple[float, int, _ThreadAlarm]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, at: float, call: Callable[[], None]) -> _ThreadAlarm:
        alarm = _ThreadAlarm(call)
        with self._condition:
            heapq.heappush(self._heap, (at, next(self._order), alarm))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="nodoubt-alarms", daemon=True)
                self._thread.start()
            self._condition.notify()
        return alarm

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._heap and self._heap[0][2].call is None:
                    heapq.heappop(self._heap)
                if self._closed:
                    return
                wait_s = self._heap[0][0] - time.monotonic() if self._heap else None
                if wait_s is None or wait_s > 0:
                    self._condition.wait(wait_s if wait_s is None else min(wait_s, threading.TIMEOUT_MAX))
                    continue
                alarm = heapq.heappop(self._heap)[2]
            try:
                if (call := alarm.call) is not None:
                    call()
            except Exception:
                logger.exception("an alarm met a bug; the others go on")


class ThreadWorld(_Clock):
    """Threads: steps block."""

    interrupts = False

    def __init__(self) -> None:
        self._alarms = _Alarms()
        self._executor = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="nodoubt")
        self._closed = threading.Event()

    def turns(self, count: int) -> _ThreadTurns:
        return _ThreadTurns(count)

    def later(self, seconds: float, call: Callable[[], None]) -> _ThreadAlarm:
        return self._alarms.add(time.monotonic() + seconds, call)

    async def sleep(self, seconds: float) -> None:
        self._closed.wait(seconds)

    async def together(self, steps: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        others = [(self._submit(step), step) for step in steps[1:]]
        results = [run_now(step) for step in steps[:1]]
        for other, step in others:
            # What no thread took up yet is done here: steps that wait for steps of their own may hold all threads.
            results.append(run_now(step) if other.cancel() else other.result())
        return results

    def _submit(self, step: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            return self._executor.submit(run_now, step)
        except RuntimeError:
            # The manager was closed beside a transaction that goes on: one that no thread takes up.
            return Future()

    async def aside(self, call: Callable[[], T]) -> T:
        return call()

    def close(self) -> None:
        """Wake sleepers and end the threads."""
        self._closed.set()
        self._alarms.close()
        self._executor.shutdown()
