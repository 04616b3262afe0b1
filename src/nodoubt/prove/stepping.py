"""A process that can be stopped between any two calls: its coroutines run until each of them waits for a database.

A coroutine cannot be copied, so a state of a process is what it was answered so far, and it is brought back by running the
program again with the same answers. Programs are deterministic: same answers, same state. Steps that run at once are
independent of each other, so what counts is which answers they got, not in which order.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from nodoubt.errors import require

T = TypeVar("T")

#: Some moment long after 1970: gids of this time have a past that can be purged.
UNIX_MS = 2**40


class Call(NamedTuple):
    """What a process asks of a database. ``node`` is 0 for home, then as the process orders them; see `databases` for verbs."""

    node: int
    verb: str


#: The forks that lead to a task, and how many calls the task made before: the same in every run.
CallId = tuple[tuple[int, ...], int]
Answers = Mapping[CallId, str]


@dataclass(slots=True)
class Ask:
    """Awaited by a session: one call, whose answer is a word."""

    call: Call

    def __await__(self) -> Generator[Ask, str, str]:
        return (yield self)


@dataclass(slots=True)
class _Fork:
    steps: Sequence[Coroutine[Any, Any, Any]]

    def __await__(self) -> Generator[_Fork, list[Any], list[Any]]:
        return (yield self)


@dataclass(slots=True)
class _Task:
    coroutine: Coroutine[Any, Any, Any]
    path: tuple[int, ...]
    then: Callable[[Any], None]
    calls: int = 0
    forks: int = 0


@dataclass(slots=True)
class Run:
    """How far a program came with the answers it had: what it heard, and the calls that it waits for or its end."""

    heard: list[tuple[Call, str]] = field(default_factory=list)
    waiting: dict[CallId, Call] = field(default_factory=dict)
    ended: bool = False
    error: BaseException | None = None


def run(program: Coroutine[Any, Any, None], answers: Answers) -> Run:
    """Run a program as far as the answers reach."""
    reached = Run()
    opened = [program]

    def end(_: Any) -> None:
        reached.ended = True

    def go(task: _Task, value: Any) -> None:
        while True:
            try:
                wish = task.coroutine.send(value)
            except StopIteration as stop:
                task.then(stop.value)
                return
            if isinstance(wish, _Fork):
                fork(task, wish.steps)
                return
            identity = (task.path, task.calls)
            task.calls += 1
            if identity not in answers:
                reached.waiting[identity] = wish.call
                return
            value = answers[identity]
            reached.heard.append((wish.call, value))

    def fork(task: _Task, steps: Sequence[Coroutine[Any, Any, Any]]) -> None:
        results: dict[int, Any] = {}
        opened.extend(steps)
        task.forks += 1
        if not steps:
            go(task, [])

        def joined(index: int) -> Callable[[Any], None]:
            def then(value: Any) -> None:
                results[index] = value
                if len(results) == len(steps):
                    go(task, [results[i] for i in range(len(steps))])

            return then

        fork_path = (*task.path, task.forks)
        for index, step in enumerate(steps):
            go(_Task(step, (*fork_path, index), joined(index)), None)

    try:
        go(_Task(program, (), end), None)
    except Exception as error:
        reached.error = error
    for coroutine in reversed(opened):
        coroutine.close()
    return reached


class _Turns:
    """Nobody waits for a connection: each process has more than it uses."""

    async def take(self, timeout_s: float) -> bool:
        return True

    def take_now(self) -> bool:
        return True

    def give_back(self) -> None: ...


class _NoAlarm:
    def cancel(self) -> None: ...


class SteppedWorld:
    """The world of a stopped process: alarms never ring, and no time passes but the retention of 0 s. What a time-out does is
    a lost answer."""

    interrupts = True

    def loop(self) -> object:
        return None

    def now(self) -> float:
        return 0.0

    def unix_ms(self) -> int:
        return UNIX_MS

    def random(self, count: int) -> bytes:
        return bytes(count)

    def turns(self, count: int) -> _Turns:
        return _Turns()

    def later(self, seconds: float, call: Callable[[], None]) -> _NoAlarm:
        return _NoAlarm()

    async def sleep(self, seconds: float) -> None:
        require(False, "a process that is proved waits for databases alone")

    async def together(self, steps: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        return await _Fork(steps)

    async def aside(self, call: Callable[[], T]) -> T:
        return call()
