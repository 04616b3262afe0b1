"""What is true: the databases, and everything that can become of one call.

A participant's branch (``Part``) and home's (``Home``) belong to the one transaction of the proof. A call is carried out in one
step, because it is one packet; what may lie between a call and its answer are the ways in which an answer can be lost.

Assumptions, each from the facts about real servers: a packet of a branch's session is carried out at most once, and not after
that session has ended; a packet of recovery may be late or arrive twice; a server may end a session at any moment; a
tombstone is old enough to be purged only when the session that could insert its key has ended (`retention_s` is far longer
than `session_limit_s`); a row that is complete may be old at any moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from nodoubt.prove.wire import LOST


class Home(StrEnum):
    """The session of home's branch."""

    OPEN = "open"
    LATE = "its decision is on its way"
    OVER = "over"


class Part(StrEnum):
    """A participant's branch."""

    OPEN = "open"
    LATE = "its PREPARE is on its way"
    HELD = "prepared, attached to its session"
    PREPARED = "prepared"
    COMMITTED = "committed"
    CLEARED = "committed, its evidence dropped"
    GONE = "rolled back"


class Truth(NamedTuple):
    """All databases at one moment. ``row`` is what home's table holds, ``decided`` what it held first; "" is none.

    ``attached``: a prepared branch belongs to its session until that ends, as on MariaDB; on PostgreSQL it is free.
    """

    row: str
    decided: str
    home: Home
    parts: tuple[Part, ...]
    attached: bool = False

    def part(self, node: int) -> Part:
        return self.parts[node - 1]

    def with_part(self, node: int, part: Part) -> Truth:
        return self._replace(parts=(*self.parts[: node - 1], part, *self.parts[node:]))

    def decide(self, row: str) -> Truth:
        return self._replace(row=row, decided=self.decided or row)

    def swapped(self) -> Truth:
        """The same with the first two participants in each other's place."""
        return self._replace(parts=(self.parts[1], self.parts[0], *self.parts[2:])) if self.parts[1:] else self


def begun(branches: int, *, attached: bool = False) -> Truth:
    """A transaction whose work is done and whose commit was not asked for yet."""
    return Truth("", "", Home.OPEN, (Part.OPEN,) * (branches - 1), attached)


#: Verbs of sessions that carry a branch: their packets cannot arrive twice, nor after the session has ended.
OF_BRANCHES = frozenset({"begin", "prepare", "decide", "undo"})
#: Verbs that change something when they arrive late.
CHANGING = frozenset(
    {"probe", "commit", "roll back", "commit here", "roll back here", "complete", "drop evidence", "purge"}
)
#: Standings of a branch whose promise stands.
PROMISED = (Part.HELD, Part.PREPARED)


def carry_out(truth: Truth, node: int, verb: str) -> tuple[Truth, str]:
    """What one packet does when it arrives, and its answer."""
    return (_at_home if node == 0 else _at_participant)(truth, node, verb)


def _at_home(truth: Truth, node: int, verb: str) -> tuple[Truth, str]:
    row, over = truth.row, truth._replace(home=Home.OVER)
    match verb:
        case "begin":
            return truth, "ok"
        case "decide" if truth.home is Home.OVER:
            return truth, LOST
        case "decide":
            return (over, "duplicate") if row else (over.decide("committed"), "COMMIT")
        case "undo" | "end session":
            return over, "yes"
        case "probe":
            if is_forgotten(truth):
                return truth, "too late"
            return truth if row else truth.decide("aborted"), row or "fresh"
        case "read":
            return truth, row or "no"
        case "unfinished":
            return truth, row if row == "committed" else "no"
        case "complete":
            return (truth._replace(row="complete"), "ok") if row == "committed" else (truth, "ok")
        case "purge" if is_old(truth):
            return truth._replace(row=""), "yes"
        case "list" | "applied" | "old evidence" | "drop evidence" | "purge":
            return truth, "no"
    raise AssertionError(verb)


def is_forgotten(truth: Truth) -> bool:
    """Whether a decision was purged, so that the retention has passed since anybody could see a branch in doubt."""
    return truth.decided == "committed" and not truth.row


def is_old(truth: Truth) -> bool:
    """Whether home's row may be purged: complete, or a tombstone that nobody can run into any more (recovery rule 7)."""
    return truth.row == "complete" or (truth.row == "aborted" and truth.home is Home.OVER)


def _at_participant(truth: Truth, node: int, verb: str) -> tuple[Truth, str]:
    part = truth.part(node)
    is_open, applied = part in (Part.OPEN, Part.LATE), part is Part.COMMITTED
    match verb:
        case "begin":
            return truth, "ok"
        case "prepare":
            promise = Part.HELD if truth.attached else Part.PREPARED
            return (truth.with_part(node, promise), "PREPARE") if is_open else (truth, LOST)
        case "undo" | "end session":
            return closed(truth, node), "yes"
        case "commit" | "roll back" | "commit here" | "roll back here":
            if truth.attached and verb.endswith("here") and part is not Part.HELD:
                return truth, LOST
            if part is not (Part.HELD if verb.endswith("here") and truth.attached else Part.PREPARED):
                return truth, "missing"
            return truth.with_part(node, Part.COMMITTED if verb.startswith("commit") else Part.GONE), "ok"
        case "list":
            return truth, "yes" if part in PROMISED else "no"
        case "applied" | "old evidence":
            return truth, "yes" if applied else "no"
        case "drop evidence":
            return truth.with_part(node, Part.CLEARED) if applied else truth, "ok"
    raise AssertionError(verb)


class Fault(StrEnum):
    """What may go wrong. Pauses need no name: whoever is not stepped is paused."""

    LOSS = "a connection breaks before a packet that changes something arrives, or before its answer"
    SILENCE = "a question of recovery is not answered"
    LATENESS = "a packet of a branch arrives after its sender has given up"
    COPIES = "a packet of recovery arrives late, or twice"
    REFUSAL = "a branch is refused with an error, or rolled back with the wrong tag as the only sign"
    BUSY = "a probe meets a committer"
    CRASH = "a process is killed"


class Effect(NamedTuple):
    """One way in which a call can end: what is true then, its answer, how it came, and what went wrong.

    ``lingers``: a copy of the packet is still on its way.
    """

    truth: Truth
    answer: str
    how: str = ""
    fault: Fault | None = None
    lingers: bool = False


def effects(truth: Truth, node: int, verb: str) -> Iterator[Effect]:
    """Every way in which a call can end."""
    after, answer = carry_out(truth, node, verb)
    yield Effect(after, answer)
    if verb in OF_BRANCHES:
        yield from _of_branch(truth, after, node, verb)
        return
    if verb not in CHANGING:
        yield Effect(truth, LOST, "no answer", Fault.LOSS if verb == "end session" else Fault.SILENCE)
        return
    yield Effect(truth, LOST, "the connection breaks before it arrives", Fault.LOSS)
    yield Effect(after, LOST, "carried out, but its answer is lost", Fault.LOSS)
    yield Effect(truth, LOST, "no answer; it is still on its way", Fault.COPIES, lingers=True)
    yield Effect(after, answer, "and a copy of it is still on its way", Fault.COPIES, lingers=True)
    if verb == "probe" and not truth.row and truth.home is not Home.OVER:
        yield Effect(truth, "busy", "the committer holds the key", Fault.BUSY)
    if verb == "purge" and after != truth:
        yield Effect(truth, "no", "nothing is old enough")


def is_fixed(node: int, verb: str) -> bool:
    """Whether a call has one answer and no effect, so that its moment does not matter."""
    return verb == "begin" or (node == 0 and verb in ("list", "applied", "old evidence", "drop evidence"))


def _of_branch(truth: Truth, after: Truth, node: int, verb: str) -> Iterator[Effect]:
    over = closed(truth, node)
    yield Effect(over, LOST, "the session ends before it arrives", Fault.LOSS)
    if verb == "undo":
        yield Effect(truth, LOST, "no answer, and the session goes on", Fault.LOSS)
        return
    if over != truth:
        yield Effect(after, LOST, "carried out, but its answer is lost", Fault.LOSS)
        yield Effect(late(truth, node), LOST, "no answer; it is still on its way", Fault.LATENESS)
        yield Effect(over, "refused", "the database answers with an error", Fault.REFUSAL)
        yield Effect(over, "ROLLBACK", "the database rolls back, and says so in the tag alone", Fault.REFUSAL)


def closed(truth: Truth, node: int) -> Truth:
    """The session of a branch has ended; what is prepared stays."""
    if node == 0:
        return truth._replace(home=Home.OVER)
    after = {Part.OPEN: Part.GONE, Part.LATE: Part.GONE, Part.HELD: Part.PREPARED}
    return truth.with_part(node, after.get(truth.part(node), truth.part(node)))


def late(truth: Truth, node: int) -> Truth:
    """The packet of a branch's session is on its way, and nobody waits for its answer any more."""
    if node == 0:
        return truth._replace(home=Home.LATE) if truth.home is Home.OPEN else truth
    return truth.with_part(node, Part.LATE) if truth.part(node) is Part.OPEN else truth


def surprises(truth: Truth) -> Iterator[tuple[int, str, Truth]]:
    """What databases do by themselves: carry out what is late, and end sessions. Each with its node and what happened."""
    for node, standing in enumerate((truth.home, *truth.parts)):
        if standing in (Home.LATE, Part.LATE):
            verb = "prepare" if node else "decide"
            yield node, f"late {verb}", carry_out(truth, node, verb)[0]
        if (after := closed(truth, node)) != truth:
            yield node, "session ends", after
