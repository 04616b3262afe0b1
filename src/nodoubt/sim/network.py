"""The network: connections between processes and servers, and what can become of a packet.

TCP delivers in order or not at all. So a *lost* packet is one after which nothing passes on that connection any more: sooner or
later the client sees a reset; the server sees one too, or, *half-open*, nothing until its own time-outs. A *late* packet holds up
all behind it, and arrives even when its sender gave up meanwhile. A *duplicated* one is what a retrying proxy makes: a text that
stands alone arrives a second time, later, on a connection of its own. A *partition* holds back everything between two machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

from nodoubt.sim.loop import Schedule
from nodoubt.sim.observer import Observer
from nodoubt.sim.server import Answer, Backend, Packet, Server
from nodoubt.sim.store import SqlError

#: A stalled connection is reset within this time.
RESET_S_MAX = 30.0
#: A packet comes within this time or never, as TCP gives up in the end: long before the retention is over, which is 100 s here
#: at least.
GIVES_UP_S = 45.0
#: What can become of a packet, in the order in which it is drawn.
FATES = ("request lost", "reply lost", "late request", "late reply", "reset", "half-open", "duplicated")
#: How texts begin that may come twice: one statement, or one transaction, of which the second time finds nothing to do.
STANDS_ALONE = (
    *("COMMIT PREPARED", "ROLLBACK PREPARED", "XA COMMIT", "XA ROLLBACK", "DELETE FROM"),
    *("BEGIN;SET LOCAL synchronous_commit = on;UPDATE", "UPDATE `"),
)


class Line:
    """One connection: its client's end is a session of the driver, its server's end a backend."""

    __slots__ = ("_down_at", "_latency_s", "_up_at", "backend", "client", "machine", "network", "server", "stalled")

    def __init__(self, network: Network, machine: str, server: Server, client: Any) -> None:
        self.network = network
        self.machine = machine
        self.server = server
        self.client = client
        self.backend: Backend = server.accept(self)
        #: Nothing passes any more, and nobody was told.
        self.stalled = False
        self._up_at = self._down_at = 0.0
        self._latency_s = network.latency_s(machine)

    @property
    def brings_something(self) -> bool:
        """Whether a packet is on its way to the server."""
        return self._up_at > self.network.schedule.now

    def send(self, packet: Packet) -> None:
        """From the client to the server."""
        if self.stalled:
            return
        network = self.network
        fate = network.draw(self, packet) if network.is_foul else ""
        if fate in ("request lost", "half-open"):
            self._stall(tell_server=fate != "half-open")
            return
        if fate == "reset":
            self.reset()
            return
        arrives_at = self._arrival(self._up_at, network.long_s() if fate == "late request" else 0.0)
        if arrives_at - network.schedule.now > GIVES_UP_S:
            self._stall()
            return
        self._up_at = arrives_at
        network.schedule.at(arrives_at, self.backend.receive, packet)
        if not fate:
            return
        if fate == "reply lost":
            network.schedule.at(self._up_at, self._stall)
        elif fate == "late reply":
            self._down_at = self._up_at + network.long_s()
        elif fate == "duplicated" and packet.text is not None:
            again = Packet(packet.number, packet.text)
            network.schedule.at(self._up_at + network.long_s(), network.replay, self.server, again)

    def answer(self, number: int, answer: Answer | SqlError) -> None:
        """From the server to the client."""
        if not self.stalled:
            self._down_at = self._arrival(self._down_at)
            self.network.schedule.at(self._down_at, self.client.answered, number, answer)

    def hang_up(self) -> None:
        """The client closed its end: the server learns it behind all that was sent before."""
        if not self.stalled:
            self._up_at = self._arrival(self._up_at)
            self._tell_server(self._up_at)

    def reset(self) -> None:
        """Both ends learn that the connection is gone."""
        self._stall(within_s=0.01)

    def server_closed(self) -> None:
        """The server's end is gone: its process died, or it ended the session."""
        if not self.stalled:
            self._down_at = self._arrival(self._down_at)
            self.network.schedule.at(self._down_at, self.client.lost, "the server closed the connection")

    def cancel(self, number: int) -> None:
        """The client asks, on a connection of its own, to stop what the server does for it."""
        network = self.network

        def stop() -> None:
            packet = self.backend.packet
            if packet is not None and packet.number == number and not self.server.paused:
                self.backend.interrupt(SqlError("57014", "canceling statement due to user request"))

        network.schedule.at(self._arrival(0.0), stop)

    def _arrival(self, earliest: float, later_s: float = 0.0) -> float:
        """When a packet arrives that is sent now, behind what arrives that early."""
        network = self.network
        moment = network.schedule.now
        if network.cuts:
            moment = max(moment, network.cuts.get((self.machine, self.server.name), 0.0))
        moment += self._latency_s * network.factor() + later_s
        return moment if moment > earliest else earliest

    def _stall(self, *, tell_server: bool = True, within_s: float = RESET_S_MAX) -> None:
        if self.stalled:
            return
        self.stalled = True
        network, now = self.network, self.network.schedule.now
        network.schedule.at(now + within_s * network.random.random(), self.client.lost, "connection reset")
        if tell_server:
            self._tell_server(max(self._up_at, now + within_s * network.random.random()))

    def _tell_server(self, moment: float) -> None:
        self.network.schedule.at(moment, self.backend.receive, Packet(0, None))


class Network:
    """All lines, and how likely each fate is."""

    def __init__(
        self,
        schedule: Schedule,
        observer: Observer,
        latencies: Random,
        faults: Random,
        rates: Mapping[str, float],
        latency_s: float,
        far_s: Mapping[str, float],
    ) -> None:
        self.schedule = schedule
        self.observer = observer
        self.random = faults
        #: By how much the next packet takes longer or shorter than on a good day.
        self.factor = _factors(latencies).__next__
        #: One way, on a good day, and of machines that are farther away.
        self._latency_s = latency_s
        self._far_s = far_s
        #: Told of every text that is sent, while somebody waits for one.
        self.overhear: Callable[[str, str, str], None] | None = None
        #: (machine, server) -> when packets pass again.
        self.cuts: dict[tuple[str, str], float] = {}
        self._fates: list[tuple[float, str]] = []
        total = 0.0
        for fate in FATES:
            if rates.get(fate):
                total += rates[fate]
                self._fates.append((total, fate))
        self._any = total
        #: Something may become of a packet.
        self.is_foul = total > 0

    def latency_s(self, machine: str) -> float:
        """A packet's way on a good day."""
        return self._far_s.get(machine, self._latency_s)

    def long_s(self) -> float:
        """A delay that outlasts many other things."""
        return float(10 ** self.random.uniform(-2, 2))

    def draw(self, line: Line, packet: Packet) -> str:
        """What becomes of a packet; "" if nothing does."""
        drawn = self.random.random()
        if drawn >= self._any:
            return ""
        fate = next((fate for bound, fate in self._fates if drawn < bound), "")
        if fate == "duplicated" and not (packet.text or "").startswith(STANDS_ALONE):
            return ""
        self.observer.hit("fault", fate)
        self.observer.say(line.machine, f"to {line.server.name}: {fate}: {packet.text}")
        return fate

    def replay(self, server: Server, packet: Packet) -> None:
        """A proxy sends a text once more."""
        if server.up:
            server.accept(None).receive(packet)

    def cut(self, machine: str, server: Server, until: float) -> None:
        """Let nothing pass between two machines for a time."""
        self.cuts[machine, server.name] = until

    def reaches(self, machine: str, server: Server) -> bool:
        """Whether a connection can be made now."""
        return not server.paused and self.cuts.get((machine, server.name), 0.0) <= self.schedule.now

    def heal(self) -> None:
        """From now on every packet passes, and soon."""
        self.is_foul = False
        self.cuts.clear()


def _factors(random: Random) -> Iterator[float]:
    """From a half to one and a half, with a long tail."""
    draw = random.random
    while True:
        drawn = draw()
        yield 0.5 + drawn if drawn < 0.95 else 40 * (drawn - 0.9)
