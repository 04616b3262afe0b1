"""Plays a script on one side, simulated or real, and writes the transcript down."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection, Coroutine, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any, Protocol

from tests.fidelity.script import Script, Step


class Party(Protocol):
    """Who acts in a script: a session of a server, or a process with a SQLite file."""

    #: What was answered since somebody looked.
    said: list[str]
    #: Its end of the connection, or its process; None before the first step, and behind the last.
    handle: Any
    #: What it gave up by itself, as the library does after a failure.
    discarded: list[Any]

    async def do(self, verb: str, words: Sequence[str], others: Mapping[str, Any]) -> None:
        """One step; what is answered is noted in ``said``."""


class Side(ABC):
    """Servers or files of one kind: the simulated one, or the real one. One instance plays one script."""

    @abstractmethod
    def party(self, name: str) -> Party:
        """Somebody new."""

    @abstractmethod
    def launch(self, step: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a step."""

    @abstractmethod
    def settle(self, working: Mapping[asyncio.Task[None], Any], leaving: Collection[Any]) -> None:
        """Go on until each task is done or its party waits for a lock, and until each handle that leaves is gone, or waits."""

    @abstractmethod
    def finish(self, tasks: Collection[asyncio.Task[None]]) -> None:
        """Go on until all are done, however long they wait."""

    @abstractmethod
    def end(self, handle: Any) -> None:
        """End a session as an operator would, or a process as by kill -9."""

    @abstractmethod
    def tables(self) -> list[str]:
        """What is committed, and what is prepared."""

    def restart(self) -> None:
        """Kill the server and start it again."""
        raise NotImplementedError

    def await_gone(self, handle: Any) -> None:
        """Go on until the server has ended a session by itself."""
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None:
        """The script is over: leave nothing behind."""


class Play:
    """A script on one side."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._actors: dict[str, Party] = {}
        self._working: dict[str, asyncio.Task[None]] = {}
        self._leaving: list[Any] = []
        self.transcript: list[str] = []

    def run(self, script: Script) -> list[str]:
        """The transcript: each step, and behind it what came of it."""
        try:
            for step in script.steps:
                self.transcript.append(str(step))
                self._step(step)
                self._tell(step.who)
            self._end_all()
            self.transcript += self._side.tables()
        finally:
            self._side.close()
        return self.transcript

    def _actor(self, name: str) -> Party:
        if name not in self._actors:
            self._actors[name] = self._side.party(name)
        return self._actors[name]

    def _step(self, step: Step) -> None:
        actor = self._actor(step.who or step.words[0]) if step.who or step.words else None
        if actor is None:
            self._side.restart()
            self._leaving.clear()
        elif step.verb == "hang-up":
            self._hang_up(actor)
        elif step.verb == "end":
            self._end(actor)
        elif step.verb == "idle":
            if actor.handle is not None:
                self._side.await_gone(actor.handle)
        elif step.verb == "cancel":
            self._working[step.who].cancel()
            self._side.finish([self._working[step.who]])
        elif step.who in self._working:
            self.transcript.append(f"  {step.who} is busy")
        else:
            self._working[step.who] = self._side.launch(actor.do(step.verb, step.words, self._actors))
            if step.verb == "hasty":
                self._side.finish([self._working[step.who]])
        self._settle()

    def _hang_up(self, actor: Party) -> None:
        handle, actor.handle = actor.handle, None
        if handle is not None:
            self._leaving.append(handle)
            # As part of a step, since a driver may look at the loop that it runs in.
            self._side.finish([self._side.launch(_abandon(handle))])

    def _end(self, actor: Party) -> None:
        if actor.handle is not None:
            self._side.end(actor.handle)

    def _settle(self) -> None:
        working = {task: self._actors[name] for name, task in self._working.items()}
        self._side.settle(working, self._leaving)
        discarded = [handle for actor in self._actors.values() for handle in actor.discarded]
        if discarded:
            self._leaving += discarded
            for actor in self._actors.values():
                actor.discarded.clear()
            self._settle()

    def _tell(self, first: str) -> None:
        """Whoever was told to do something comes first."""
        for name in sorted(self._actors, key=lambda name: (name != first, name)):
            actor = self._actors[name]
            self.transcript += [f"  {name} {said}" for said in actor.said]
            actor.said.clear()
            task = self._working.get(name)
            if task is None:
                continue
            if task.done():
                del self._working[name]
                if task.cancelled():
                    self.transcript.append(f"  {name} gives up")
                else:
                    task.result()
            elif name == first:
                self.transcript.append(f"  {name} waits")

    def _end_all(self) -> None:
        """One after another, as each may be what the next one waits for."""
        handles = [actor.handle for actor in self._actors.values() if actor.handle is not None]
        for handle in [*handles, *self._leaving]:
            self._side.end(handle)
            self._settle()
        self._tell("")


async def _abandon(handle: Any) -> None:
    handle.abandon()


def side_by_side(real: Sequence[str], simulated: Sequence[str]) -> str:
    """Two transcripts in two columns, with a mark where they differ."""
    width = max(map(len, ("real", *real)))
    lines = [f"  {'real':{width}}  simulated"]
    for how, begin, end, other_begin, other_end in SequenceMatcher(None, real, simulated, autojunk=False).get_opcodes():
        mark = " " if how == "equal" else "|"
        pairs = zip_longest(real[begin:end], simulated[other_begin:other_end], fillvalue="")
        lines += [f"{mark} {left:{width}}  {right}" for left, right in pairs]
    return "\n".join(lines)
