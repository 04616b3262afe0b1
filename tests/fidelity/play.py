"""Plays a script on one side, simulated or real, and writes the transcript down."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import Any

from nodoubt.nodes.dialect import Dialect, NodeSettings, Row, Session
from tests.fidelity.actor import Actor, Names
from tests.fidelity.script import Script, Step


class Side(ABC):
    """Servers of one kind: the simulated one, or the real one. One instance plays one script."""

    names: Names
    dialect: Dialect

    @abstractmethod
    async def connect(self, settings: NodeSettings) -> Session:
        """Open a session by the side's own driver."""

    @abstractmethod
    async def work(self, connection: Any, session: Session, sql: str, values: Sequence[Any]) -> Sequence[Row]:
        """Run a statement of the workload. Raises StatementFailed and ConnectionLost alone."""

    @abstractmethod
    def launch(self, step: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a step."""

    @abstractmethod
    def settle(self, working: Mapping[asyncio.Task[None], Actor], leaving: Collection[Session]) -> None:
        """Go on until each task is done or its session waits for a lock, as the server itself says, and until each
        session that leaves is gone, or waits."""

    @abstractmethod
    def finish(self, tasks: Collection[asyncio.Task[None]]) -> None:
        """Go on until all are done, however long they wait."""

    @abstractmethod
    def end(self, session: Session) -> None:
        """End a session as an operator would."""

    @abstractmethod
    def restart(self) -> None:
        """Kill the server and start it again."""

    @abstractmethod
    def await_gone(self, session: Session) -> None:
        """Go on until the server has ended a session by itself."""

    @abstractmethod
    def tables(self) -> list[str]:
        """What is committed, and what is prepared."""


class Play:
    """A script on one side."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._actors: dict[str, Actor] = {}
        self._working: dict[str, asyncio.Task[None]] = {}
        self._leaving: list[Session] = []
        self.transcript: list[str] = []

    def run(self, script: Script) -> list[str]:
        """The transcript: each step, and behind it what came of it."""
        for step in script.steps:
            self.transcript.append(str(step))
            self._step(step)
            self._tell(step.who)
        self._end_all()
        self.transcript += self._side.tables()
        return self.transcript

    def _actor(self, name: str) -> Actor:
        if name not in self._actors:
            side = self._side
            self._actors[name] = Actor(name, side.dialect, side.names, side.connect, side.work)
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
            if actor.session is not None:
                self._side.await_gone(actor.session)
        elif step.who in self._working:
            self.transcript.append(f"  {step.who} is busy")
        else:
            self._working[step.who] = self._side.launch(actor.do(step.verb, step.words, self._actors))
            if step.verb == "hasty":
                self._side.finish([self._working[step.who]])
        self._settle()

    def _hang_up(self, actor: Actor) -> None:
        session, actor.session = actor.session, None
        if session is not None:
            self._leaving.append(session)
            # As part of a step, since a driver may look at the loop that it runs in.
            self._side.finish([self._side.launch(_abandon(session))])

    def _end(self, actor: Actor) -> None:
        if actor.session is not None:
            self._side.end(actor.session)

    def _settle(self) -> None:
        working = {task: self._actors[name] for name, task in self._working.items()}
        self._side.settle(working, self._leaving)
        discarded = [session for actor in self._actors.values() for session in actor.discarded]
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
                task.result()
            elif name == first:
                self.transcript.append(f"  {name} waits")

    def _end_all(self) -> None:
        """One after another, as each may be what the next one waits for."""
        sessions = [actor.session for actor in self._actors.values() if actor.session is not None]
        for session in [*sessions, *self._leaving]:
            self._side.end(session)
            self._settle()
        self._tell("")


async def _abandon(session: Session) -> None:
    session.abandon()
