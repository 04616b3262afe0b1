"""A simulated database server: sessions that carry out packets one after another, a disk, and its own bad days.

What a text means is the business of the subclass. A text that no subclass understands ends the run: a simulation that guesses
proves nothing.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random
from typing import Any, ClassVar

from nodoubt.protocol.ids import BranchId
from nodoubt.sim.locks import Deadlock, LockWait, Place, Txn
from nodoubt.sim.loop import Schedule
from nodoubt.sim.observer import Observer
from nodoubt.sim.store import SqlError, Store, Tables

#: Seconds since 1970 when a simulated world begins.
EPOCH_S = 1_800_000_000.0
#: Texts that are remembered.
UNDERSTOOD_MAX = 4096
#: How long a forced write takes on a disk that is well.
FORCE_S = 0.002

Rows = Sequence[tuple[Any, ...]]
#: (tag, rows)
Answer = tuple[str, Rows]
Steps = Generator[Any, Any, Answer]
#: A pattern of a statement, and the method that carries it out with the pattern's groups.
Text = tuple[re.Pattern[str], Callable[..., Answer | Steps]]
#: What a packet asks for: methods, each with its groups.
Statements = Sequence[tuple[Callable[..., Answer | Steps], tuple[str, ...]]]

DONE: Answer = ("", ())


class ServerDied(Exception):
    """The server stops at once, as PostgreSQL does by PANIC."""


@dataclass(slots=True)
class Disk:
    """How a server's disk is at the moment."""

    slowness: float = 1.0
    full: bool = False
    fails: bool = False


@dataclass(slots=True)
class Packet:
    """What arrives on a connection; ``text`` None means that the other end has hung up."""

    number: int
    text: str | None
    values: tuple[Any, ...] = ()
    by_user: bool = False


class Backend:
    """The server's end of one connection."""

    __slots__ = (
        *("alive", "branch", "doomed", "failed", "firm", "idle_since", "line", "number", "packet", "queue", "running"),
        *("server", "settings", "txn", "wait", "watched"),
    )

    def __init__(self, server: Server, number: int, line: Any) -> None:
        self.server = server
        self.number = number
        self.line = line
        self.alive = True
        self.txn: Txn | None = None
        self.failed = False
        #: The name of the branch that is open or prepared on this session.
        self.branch = ""
        self.settings: dict[str, Any] = {}
        self.queue: deque[Packet] = deque()
        self.packet: Packet | None = None
        self.running: Steps | None = None
        self.wait: object = None
        #: In the middle of a commit, which nobody can interrupt.
        self.firm = False
        self.doomed = False
        self.idle_since = 0.0
        self.watched = False

    def receive(self, packet: Packet) -> None:
        """A packet came over the network."""
        if self.server.paused:
            self.server.withheld.append(lambda: self.receive(packet))
        elif self.running is not None:
            self.queue.append(packet)
        elif self.alive:
            self._begin(packet)

    def _begin(self, packet: Packet) -> None:
        if packet.text is None:
            self.end()
            return
        self.packet = packet
        self.running = self.server.carry_out(self, packet)
        self.go_on(None)

    def go_on(self, value: object, error: SqlError | None = None) -> None:
        """Carry on with the packet until it waits or ends."""
        running = self.running
        if running is None:
            return
        self.wait = None
        answer: Answer | SqlError
        try:
            wait = running.send(value) if error is None else running.throw(error)
        except StopIteration as end:
            answer = end.value
        except SqlError as failure:
            answer = failure
        except ServerDied:
            self.server.crash()
            return
        else:
            self._wait_for(wait)
            return
        self.running = None
        self.firm = False
        if self.doomed:
            self.end()
            return
        if self.line is not None and self.packet is not None:
            self.line.answer(self.packet.number, answer)
        self.idle_since = self.server.schedule.now
        if self.txn is not None and not self.watched:
            self.server.watch_idle(self)
        if self.queue:
            self._begin(self.queue.popleft())

    def _wait_for(self, wait: Any) -> None:
        token = self.wait = object()
        schedule = self.server.schedule

        def wake(value: object) -> None:
            if self.wait is token and self.alive:
                if self.server.paused:
                    self.server.withheld.append(lambda: wake(value))
                else:
                    self.go_on(value)

        if isinstance(wait, LockWait):
            wait.wake = lambda got: schedule.after(0.0, wake, got)
            if wait.timeout_s is not None:
                schedule.after(wait.timeout_s, wake, False)
        else:
            schedule.after(wait, wake, None)

    def interrupt(self, error: SqlError) -> None:
        """Let the running statement fail, unless it cannot be interrupted."""
        if self.alive and self.running is not None and not self.firm and self.wait is not None:
            self.go_on(None, error)

    def terminate(self) -> None:
        """End the session from outside, as soon as it can be."""
        if self.alive:
            if self.firm:
                self.doomed = True
            else:
                self.end()

    def end(self) -> None:
        """The session is over: what it had open is undone, what it prepared stays."""
        if not self.alive:
            return
        self.alive = False
        running, self.running = self.running, None
        if running is not None:
            running.close()
        self.server.ended(self)
        if self.line is not None:
            self.line.server_closed()


class Server:
    """One database server."""

    kind: ClassVar[str]
    #: How many columns a row of the table of decisions has.
    decision_columns: ClassVar[int]
    #: First word -> what may be said with it.
    texts: ClassVar[Mapping[str, Sequence[Text]]]

    def __init__(self, name: str, schedule: Schedule, observer: Observer, random: Random, initial: Tables) -> None:
        self.name = name
        self.schedule = schedule
        self.observer = observer
        self.random = random
        self.store = Store(initial)
        self.disk = Disk()
        self.clock_ahead_s = 0.0
        #: After a crash it is up again by then.
        self.downtime_s = 5.0
        self.up = True
        self.paused = False
        self.withheld: list[Callable[[], object]] = []
        self.backends: dict[int, Backend] = {}
        self._numbers = 100
        #: Called with a gid whose decision is about to be marked complete.
        self.completing: Callable[[str], None] = lambda gid: None

    def clock_s(self) -> float:
        """Seconds since 1970 by this server's clock."""
        return EPOCH_S + self.schedule.now + self.clock_ahead_s

    def accept(self, line: Any) -> Backend:
        """A new connection."""
        self._numbers += 1
        backend = self.backends[self._numbers] = Backend(self, self._numbers, line)
        return backend

    def carry_out(self, backend: Backend, packet: Packet) -> Steps:
        """Run a packet's statements; the first error ends it."""
        result = DONE
        assert packet.text is not None
        statements = self._understand(packet.text)
        last = len(statements) - 1
        for index, (call, groups) in enumerate(statements):
            if packet.by_user and index == last and backend.txn is None:
                self.observer.violation(f"{self.name}: a statement of a block ran outside its branch: {packet.text}")
            if backend.failed:
                self.refuse(call)
            # What a block sends is one statement, perhaps behind its BEGIN.
            found: Any = call(self, backend, *groups, *packet.values) if index == last else call(self, backend, *groups)
            tag, rows = found if isinstance(found, tuple) else (yield from found)
            result = tag, rows or result[1]
        return result

    def _understand(self, text: str) -> Statements:
        known = _UNDERSTOOD.get((self.kind, text))
        if known is None:
            if len(_UNDERSTOOD) == UNDERSTOOD_MAX:
                _UNDERSTOOD.clear()
            known = _UNDERSTOOD[self.kind, text] = self._read(text)
        return known

    def _read(self, text: str) -> Statements:
        if ";" in text:
            return [*chain.from_iterable(map(self._understand, text.split(";")))]
        for pattern, call in self.texts.get(text.split(None, 1)[0], ()):
            match = pattern.fullmatch(text)
            if match is not None:
                return [(call, match.groups())]
        raise NotImplementedError(f"the simulated {self.kind} does not understand: {text}")

    def refuse(self, call: Callable[..., Any]) -> None:
        """Called before each statement of a session whose transaction has failed. Raises SqlError."""

    def in_doubt(self) -> list[str]:
        """The names of the prepared branches."""
        return list(self.store.prepared)

    # Locks and disk

    def lock(self, b: Backend, place: Place, timeout_s: float | None, mode: str) -> Generator[Any, Any, bool]:
        """Take a lock for the open transaction; False when it took too long. Raises Deadlock."""
        txn = b.txn
        assert txn is not None
        got: bool = yield from self.store.lock(txn, place, timeout_s, mode)
        if not got:
            self.observer.hit("met", f"{self.kind}: lock time-out")
        return got

    def force(self, backend: Backend, length: int) -> Generator[Any, Any, None]:
        """Force the log to the disk. Raises ServerDied when that fails."""
        backend.firm = True
        # Commits that wait together differ by chance alone, as they do in nature.
        yield FORCE_S * self.disk.slowness * (0.5 + self.random.random())
        if self.disk.fails:
            self.observer.hit("met", f"{self.kind}: forced write failed")
            raise ServerDied
        self.store.force(length)

    # Its bad days

    def crash(self) -> None:
        """Everything in memory is gone, at once."""
        if not self.up:
            return
        self.up = False
        self.observer.say(self.name, "dies")
        backends, self.backends = self.backends, {}
        self.withheld.clear()
        self.paused = False
        for backend in backends.values():
            backend.alive = False
            self._is_lost(backend)
            if backend.running is not None:
                running, backend.running = backend.running, None
                backend.wait = None
                _drop(running)
            if backend.line is not None:
                backend.line.server_closed()
        self.store.crash(self.random)
        self.disk.fails = False
        self.schedule.after(0.1 + self.random.random() * self.downtime_s, self.start)

    def start(self) -> None:
        """Run again."""
        if not self.up:
            self.up = True
            self.observer.say(self.name, f"is up again, {len(self.store.prepared)} prepared")

    def pause(self) -> None:
        """Stop answering, without noticing it."""
        self.paused = self.up

    def resume(self) -> None:
        """Go on."""
        self.paused = False
        withheld, self.withheld = self.withheld, []
        for call in withheld:
            call()

    def watch_idle(self, backend: Backend) -> None:
        """End the session when it idles in its transaction for longer than it was told to."""
        limit_s = backend.settings.get("idle_limit_s")
        if limit_s is None:
            return
        backend.watched = True

        def look() -> None:
            backend.watched = False
            if not backend.alive or backend.txn is None:
                return
            idle_s = self.schedule.now - backend.idle_since
            if backend.running is None and idle_s >= limit_s and not self.paused:
                self.observer.hit("met", f"{self.kind}: idle session ended")
                backend.end()
            else:
                self.watch_idle(backend)

        self.schedule.at(max(backend.idle_since + limit_s, self.schedule.now + 1.0), look)

    def closed_gate(self, backend: Backend) -> None:
        """A session keeps others from deciding from now on, until it ends its transaction."""
        backend.settings["gate"] = True
        self.observer.hit("gate", f"{self.kind}: closed")

    def _is_lost(self, backend: Backend) -> None:
        if "gate" in backend.settings:
            self.observer.hit("gate", f"{self.kind}: lost")

    # For subclasses

    def ended(self, backend: Backend) -> None:
        """A session is over."""
        self._is_lost(backend)
        self.backends.pop(backend.number, None)
        txn, backend.txn = backend.txn, None
        if txn is not None and not txn.over:
            self.store.end(txn, apply=False)

    def spell(self, branch: BranchId) -> str:
        """The name of a prepared branch."""
        raise NotImplementedError

    def finish_by_hand(self, name: str, *, commit: bool) -> bool:
        """An operator ends a prepared branch; whether the server let him."""
        raise NotImplementedError


#: What was understood, by the kind of server: most texts are said again and again.
_UNDERSTOOD: dict[tuple[str, str], Statements] = {}


def _drop(running: Steps) -> None:
    try:
        running.close()
    except (RuntimeError, SqlError, Deadlock, ValueError):
        # ValueError: it is this very packet that brought the server down.
        return


def texts(*known: tuple[str, Callable[..., Answer | Steps]]) -> Mapping[str, Sequence[Text]]:
    """Sort patterns by their first word. A space in a pattern is any white space."""
    found: dict[str, list[Text]] = {}
    for pattern, call in known:
        first = re.split(r"[ \\(]", pattern, maxsplit=1)[0]
        found.setdefault(first, []).append((re.compile(pattern.replace(" ", r"\s+"), re.DOTALL), call))
    return found


def quoted(text: str) -> list[str]:
    """The literals of a list."""
    return _LITERAL.findall(text)


_LITERAL = re.compile(r"'([^']*)'")
