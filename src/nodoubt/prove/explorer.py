"""Breadth first over every state of the world: databases, one owner, settlers, and what is still on its way.

A state is a tuple of numbers: the truth, the owner, a packet of recovery that is on its way (0: none), and each settler. Settlers
are interchangeable, and so are the participants: of all states that differ in nothing else one stands for all.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from nodoubt.prove import databases, invariants
from nodoubt.prove.databases import CHANGING, Fault, Truth, begun
from nodoubt.prove.locals import IDLE, Locals

State = tuple[int, ...]


class Move(NamedTuple):
    """What one process, or the databases by themselves, may do next. ``node`` and ``verb`` name the call, ``how`` its end.

    ``lingers`` numbers a packet that is on its way afterwards, 0 for none.
    """

    truth: int
    local: int
    node: int
    verb: str
    how: str
    answer: str = ""
    fault: Fault | None = None
    lingers: int = 0
    wrong: str = ""


class Step(NamedTuple):
    """A move of somebody (``owner``, ``settler 1``, …, ``databases``, ``network``), and the state that it leads to."""

    who: str
    move: Move
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """How large a world is, and what may go wrong in it.

    ``branches`` counts home's; two or three. ``attached``: prepared branches belong to their sessions, as on MariaDB.
    """

    branches: int
    settlers: int
    faults: frozenset[Fault] = frozenset(Fault)
    attached: bool = False


@dataclass(slots=True, kw_only=True)
class Findings:
    """What an exploration found. ``wrong`` is the invariant that broke, and ``trail`` the states of the shortest way there."""

    scope: Scope
    states: int = 0
    transitions: int = 0
    depth: int = 0
    seconds: float = 0.0
    wrong: str = ""
    trail: list[State] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.wrong


class World:
    """The moves of a world of one owner, some settlers, and one transaction."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self._symmetric = scope.branches > 2
        self.locals = Locals(scope.branches, attached=scope.attached)
        self.truths: list[Truth] = []
        self._truth_numbers: dict[Truth, int] = {}
        self._mirror: list[int] = []
        #: Packets of recovery by number; 0 is none.
        self.packets: list[tuple[int, str]] = [(0, "")]
        self._packet_mirror: list[int] = [0]
        self._of_process: dict[tuple[int, int], list[Move]] = {}
        self._of_databases: dict[int, list[Move]] = {}
        self._of_network: dict[tuple[int, int], list[Move]] = {}
        self._wrong: dict[State, str] = {}
        for verb in sorted(CHANGING):
            for node in range(scope.branches):
                self.packets.append((node, verb))
        places = [0, 2, 1] if self._symmetric else [0, 1]
        self._packet_mirror += [self.packets.index((places[node], verb)) for node, verb in self.packets[1:]]

    def start(self) -> State:
        truth = self._number(begun(self.scope.branches, attached=self.scope.attached))
        return self.canonical((truth, self.locals.start("own"), 0, *[IDLE] * self.scope.settlers))

    def canonical(self, state: State) -> State:
        """The one that stands for all states that are the same but for the names of settlers and participants.

        The least of them: mostly the truth alone says which one that is.
        """
        if self._symmetric:
            truth, mirror, of_local = state[0], self._mirror[state[0]], self.locals.mirror
            if mirror <= truth:
                settlers = [of_local[settler] for settler in state[3:]]
                other = _ordered((mirror, of_local[state[1]], self._packet_mirror[state[2]], *settlers))
                return other if mirror < truth else min(other, _ordered(state))
        return _ordered(state)

    def steps(self, state: State) -> Iterator[Step]:
        """Everything that may happen next, as it is, without a canonical name."""
        truth, owner, packet, *settlers = state
        for move in self._moves(truth, owner):
            if not (packet and move.lingers):
                yield Step("owner", move, (move.truth, move.local, move.lingers or packet, *settlers))
        for index, settler in enumerate(settlers):
            who, before, behind = f"settler {index + 1}", settlers[:index], settlers[index + 1 :]
            for move in self._moves(truth, settler):
                if not (packet and move.lingers):
                    yield Step(who, move, (move.truth, owner, move.lingers or packet, *before, move.local, *behind))
        for move in self._surprises(truth):
            yield Step("databases", move, (move.truth, *state[1:]))
        if packet:
            for move in self._arrivals(truth, packet):
                yield Step("network", move, (move.truth, owner, move.lingers, *settlers))

    def wrong(self, state: State) -> str:
        """The invariant that a state breaks, if it breaks one."""
        key = state[:2]
        if key not in self._wrong:
            truth, owner = self.truths[key[0]], self.locals[key[1]]
            self._wrong[key] = next(invariants.broken(truth, owner.told), "")
        return self._wrong[key]

    def is_settled(self, state: State) -> bool:
        """Whether nothing is left to do, and nobody at work."""
        idle = state[2] == 0 and all(settler == IDLE for settler in state[3:])
        return idle and self.locals[state[1]].ended and invariants.is_settled(self.truths[state[0]])

    def _number(self, truth: Truth) -> int:
        if truth not in self._truth_numbers:
            self._truth_numbers[truth] = len(self.truths)
            self.truths.append(truth)
            self._mirror.append(0)
            self._mirror[self._truth_numbers[truth]] = self._number(truth.swapped()) if self._symmetric else 0
        return self._truth_numbers[truth]

    def _moves(self, truth: int, local: int) -> list[Move]:
        key = (truth, local)
        known = self._of_process.get(key)
        if known is None:
            moves = self._process_moves(truth, local)
            known = self._of_process[key] = [m for m in moves if m.fault is None or m.fault in self.scope.faults]
        return known

    def _process_moves(self, number: int, local: int) -> Iterator[Move]:
        truth, waiting = self.truths[number], self.locals[local].waiting
        if local == IDLE:
            for start in self.locals.starts():
                yield Move(number, start, 0, "start", "")
        crashed = truth
        for call, (relative, verb) in waiting:
            node = self.locals.place(local, relative)
            for effect in databases.effects(truth, node, verb):
                after = self.locals.after(local, call, effect.answer)
                wrong = next(invariants.broken_by(truth, effect.truth), "") or self.locals[after].alarm
                lingers = self.packets.index((node, verb)) if effect.lingers else 0
                here = self._number(effect.truth)
                yield Move(here, after, node, verb, effect.how, effect.answer, effect.fault, lingers, wrong)
            if verb in ("prepare", "decide") and Fault.LATENESS in self.scope.faults:
                crashed = databases.late(crashed, node)
        if waiting:
            gone, left = self.locals.crashed(local), self._number(crashed)
            yield Move(left, gone, 0, "crash", "", fault=Fault.CRASH)
            for _, (relative, verb) in waiting:
                if verb in CHANGING and Fault.COPIES in self.scope.faults:
                    packet = self.packets.index((self.locals.place(local, relative), verb))
                    yield Move(
                        left, gone, *self.packets[packet], "crash, with this on its way", "", Fault.CRASH, packet
                    )

    def _surprises(self, number: int) -> list[Move]:
        if number not in self._of_databases:
            truth = self.truths[number]
            self._of_databases[number] = [
                Move(self._number(after), 0, node, what, "", wrong=next(invariants.broken_by(truth, after), ""))
                for node, what, after in databases.surprises(truth)
            ]
        return self._of_databases[number]

    def _arrivals(self, number: int, packet: int) -> list[Move]:
        key = (number, packet)
        if key not in self._of_network:
            truth, (node, verb) = self.truths[number], self.packets[packet]
            after = databases.carry_out(truth, node, verb)[0]
            wrong = next(invariants.broken_by(truth, after), "")
            late = Move(self._number(after), 0, node, verb, "arrives late", wrong=wrong)
            self._of_network[key] = [
                Move(number, 0, node, verb, "is lost for good"),
                late,
                late._replace(how="arrives late, and will again", fault=Fault.COPIES, lingers=packet),
            ]
        return self._of_network[key]


def _ordered(state: State) -> State:
    """With its settlers, of whom there are two at most, in order."""
    return state if len(state) < 5 or state[3] <= state[4] else (*state[:3], state[4], state[3])


#: What `nodoubt prove enumerate` goes through: everything that fits into some minutes, in an order that keeps two cores
#: at work until the end.
STANDARD = (
    Scope(branches=2, settlers=1),
    Scope(branches=2, settlers=1, attached=True),
    Scope(branches=3, settlers=1, faults=frozenset({Fault.LOSS, Fault.CRASH})),
    Scope(branches=3, settlers=1, faults=frozenset({Fault.SILENCE, Fault.CRASH})),
    Scope(branches=2, settlers=2),
    Scope(branches=3, settlers=2, faults=frozenset()),
)


def explore(world: World, progress: Callable[[Findings], None] = lambda findings: None) -> Findings:
    """Visit every reachable state once, shortest ways first, until an invariant breaks or none is left.

    Then every state from which no settled state can be reached without another fault is a broken promise, too.
    """
    started = time.monotonic()
    findings = Findings(scope=world.scope)
    first = world.start()
    numbers: dict[State, int] = {first: 0}
    states: list[State] = [first]
    parents = array("l", [-1])
    healing = array("l")
    canonical, end_of_level, index = world.canonical, 1, 0
    while index < len(states) and not findings.wrong:
        if index == end_of_level:
            findings.depth, end_of_level = findings.depth + 1, len(states)
            findings.states, findings.seconds = len(states), time.monotonic() - started
            progress(findings)
        for _, move, reached in world.steps(states[index]):
            findings.transitions += 1
            after, wrong = canonical(reached), move.wrong
            number = numbers.setdefault(after, len(states))
            if number == len(states):
                states.append(after)
                parents.append(index)
                wrong = wrong or world.wrong(after)
            if wrong:
                findings.wrong = wrong
                findings.trail = [*_trail(states, parents, index), after]
                break
            if move.fault is None:
                healing.append(index)
                healing.append(number)
        index += 1
    findings.states = len(states)
    if not findings.wrong:
        lost = _first_lost(world, states, healing)
        if lost is not None:
            findings.wrong = "from here nothing can be settled any more"
            findings.trail = _trail(states, parents, lost)
    findings.seconds = time.monotonic() - started
    return findings


def _trail(states: list[State], parents: array[int], index: int) -> list[State]:
    trail = []
    while index >= 0:
        trail.append(states[index])
        index = parents[index]
    return trail[::-1]


def _first_lost(world: World, states: list[State], healing: array[int]) -> int | None:
    """The first state from which no settled one is reached by steps without a fault; None if there is no such state."""
    sources, targets = healing[0::2], healing[1::2]
    offsets = array("l", bytes(8 * (len(states) + 1)))
    for target in targets:
        offsets[target + 1] += 1
    for index in range(len(states)):
        offsets[index + 1] += offsets[index]
    filled = offsets[:]
    before = array("l", bytes(8 * len(sources)))
    for source, target in zip(sources, targets, strict=True):
        before[filled[target]] = source
        filled[target] += 1
    todo = [index for index, state in enumerate(states) if world.is_settled(state)]
    reached = bytearray(len(states))
    for index in todo:
        reached[index] = 1
    while todo:
        target = todo.pop()
        for source in before[offsets[target] : offsets[target + 1]]:
            if not reached[source]:
                reached[source] = 1
                todo.append(source)
    lost = reached.find(0)
    return None if lost < 0 else lost
