"""Both sides of SQLite: processes that are killed for good, or simulated ones. What they do is the same :class:`Work`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import Any

from tests.fidelity.names import Names
from tests.fidelity.play import Side

#: Whoever looked so often since anything happened waits.
LOOKS = 4


class Process(ABC):
    """A process from outside. ``looks`` counts how often it looked for a lock since it was set to 0."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.looks = 0
        self.is_dead = False
        #: Is done with the step, True, or dead, False.
        self.answer: asyncio.Future[bool] | None = None

    @abstractmethod
    def begin(self, verb: str, words: Sequence[str]) -> asyncio.Future[bool]:
        """Begin a step; the result is :attr:`answer`."""

    async def ask(self, verb: str, words: Sequence[str]) -> bool:
        """Do a step; whether it was done to its end."""
        self.looks = 0
        self.answer = self.begin(verb, words)
        return await self.answer

    @abstractmethod
    def kill(self) -> None:
        """Kill it."""

    def tell(self, line: str | None) -> None:
        """What :class:`Work` tells."""
        if line is None:
            self.looks += 1
        else:
            self.said.append(line)

    def is_over(self, alive: bool) -> None:
        """The step is over, or the process is."""
        self.is_dead = not alive
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(alive)


class ProcessParty:
    """See :class:`tests.fidelity.play.Party`."""

    def __init__(self, side: SQLiteSide) -> None:
        self.handle: Process | None = None
        self.discarded: list[Any] = []
        self.said: list[str] = []
        self._side = side

    async def do(self, verb: str, words: Sequence[str], others: Mapping[str, Any]) -> None:
        if self.handle is None or self.handle.is_dead:
            self.handle = self._side.start()
            self.handle.said = self.said
        if not await self.handle.ask(verb, words):
            self.said.append("! killed")


class SQLiteSide(Side):
    """Processes with one file."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.processes: list[Process] = []

    @abstractmethod
    def start(self) -> Process:
        """A new process."""

    @abstractmethod
    def go_on(self) -> None:
        """Let some time pass."""

    def party(self, name: str) -> ProcessParty:
        return ProcessParty(self)

    def settle(self, working: Mapping[asyncio.Task[None], Any], leaving: Collection[Any]) -> None:
        heard: tuple[int, int] | None = None
        while heard is None or not all(task.done() or _waits(party.handle) for task, party in working.items()):
            self.go_on()
            now = (sum(len(process.said) for process in self.processes), sum(task.done() for task in working))
            if now != heard:
                # Whatever happened may be what another one waits for.
                heard = now
                for process in self.processes:
                    process.looks = 0

    def finish(self, tasks: Collection[asyncio.Task[None]]) -> None:
        while not all(task.done() for task in tasks):
            self.go_on()

    def end(self, handle: Process) -> None:
        handle.kill()
        self.go_on()

    def table_lines(self, tables: Mapping[str, Sequence[tuple[Any, ...]]], prepared: Sequence[str]) -> list[str]:
        """The rows of each table and what is prepared, as a transcript shows them."""
        return [
            *[f"{table} {row}" for table in sorted(tables) for row in self.names.rows(sorted(tables[table]))],
            *[f"prepared {self.names.plain(name)}" for name in prepared],
        ]


def _waits(process: Process | None) -> bool:
    return process is not None and process.looks >= LOOKS


async def run_step(process: Process, step: Coroutine[Any, Any, None]) -> None:
    """Run a step of a process to its end, and tell that."""
    await step
    process.is_over(True)
