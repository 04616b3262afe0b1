"""What the transactions do: transfers, appends to lists and views of them, reservations; and the tables of the last ones.

Knows SQL; knows neither processes nor how a transaction is committed: that is the ``Hand``'s. Lists are touched in the order of
their names, and the legs of a transfer in that of the nodes, so that few wait for each other in a ring.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol

from nodoubt.demo.bank import Leg, draw_transfer, leg_texts
from nodoubt.demo.plain import PlainSession
from nodoubt.nodes.contract import Key
from nodoubt.nodes.dialect import Row

LISTS = "torture_lists"
SEATS = "torture_seats"
TICKETS = "torture_tickets"
TABLES = (LISTS, SEATS, TICKETS)

SEATS_PER_NODE = 20
#: Lists are appended to for so long; then others take their place, so that none grows without end.
WINDOW_S = 2.0
LISTS_PER_NODE = 3
OPS_MAX = 5
#: What transactions do, as often as it is drawn; at a level that spans nodes mostly what its history is judged by.
WORKS = ("transfer", "lists", "lists", "reservation", "view")
JUDGED_WORKS = (*WORKS, *["lists"] * 4)


class Hand(Protocol):
    """Carries statements to nodes, all of them in one transaction."""

    gid: str

    async def run(self, node: str, sql: str) -> None:
        """Write."""

    async def rows(self, node: str, sql: str) -> Sequence[Row]:
        """Read."""


class Task(Protocol):
    """What one transaction or one snapshot does."""

    @property
    def name(self) -> str:
        """The kind of work."""

    @property
    def ops(self) -> list[list[Any]] | None:
        """What is asked for, as the history has it; None for what has no history."""

    async def carry_out(self, hand: Hand, kinds: Mapping[str, str]) -> Any:
        """Do it; what was seen."""


class Job(Task, Protocol):
    """What one transaction does."""

    @property
    def writes(self) -> Set[str]:
        """The nodes that it may write to."""

    @property
    def reads(self) -> Set[str]:
        """The nodes that it only reads."""

    @property
    def keys(self) -> list[Key]:
        """What stands for the rows that others touch, too."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Money from one node to one or two others."""

    legs: list[Leg]
    name = "transfer"
    ops = None
    reads = frozenset[str]()

    @property
    def writes(self) -> Set[str]:
        return {leg.node for leg in self.legs}

    @property
    def keys(self) -> list[Key]:
        return [Key(name=f"account {leg.account} on {leg.node}") for leg in self.legs]

    async def carry_out(self, hand: Hand, kinds: Mapping[str, str]) -> Any:
        for leg in self.legs:
            for sql in leg_texts(hand.gid, leg):
                await hand.run(leg.node, sql)


@dataclass(frozen=True, slots=True)
class Appends:
    """Appends to lists and reads of lists on any nodes; a list's key is ``node/name``. The ops are those of the history."""

    ops: list[list[Any]]
    name = "lists"

    @property
    def writes(self) -> Set[str]:
        return {node_of(key) for function, key, _ in self.ops if function == "append"}

    @property
    def reads(self) -> Set[str]:
        return {node_of(key) for _, key, _ in self.ops} - self.writes

    @property
    def keys(self) -> list[Key]:
        return [Key(name=f"list {key}", shared=function == "r") for function, key, _ in self.ops]

    async def carry_out(self, hand: Hand, kinds: Mapping[str, str]) -> list[list[Any]]:
        seen: list[list[Any]] = []
        for function, key, value in self.ops:
            node = node_of(key)
            if function == "append":
                await hand.run(node, append_text(kinds[node], key, value))
                seen.append([function, key, value])
            else:
                rows = await hand.rows(node, f"SELECT elements FROM {LISTS} WHERE id = '{key}'")
                seen.append([function, key, elements(rows[0][0]) if rows else []])
        return seen


@dataclass(frozen=True, slots=True)
class View:
    """Reads of all lists that are in use, on all nodes, of one instant."""

    ops: list[list[Any]]
    name = "view"

    async def carry_out(self, hand: Hand, kinds: Mapping[str, str]) -> list[list[Any]]:
        found: dict[str, list[int]] = {}
        for node, keys in itertools.groupby((key for _, key, _ in self.ops), node_of):
            named = ", ".join(f"'{key}'" for key in keys)
            for key, text in await hand.rows(node, f"SELECT id, elements FROM {LISTS} WHERE id IN ({named})"):
                found[str(key)] = elements(str(text))
        return [["r", key, found.get(key, [])] for _, key, _ in self.ops]


@dataclass(frozen=True, slots=True)
class Reservation:
    """Take a seat if it is free, give it back if not; a ticket on another node says which."""

    place: str
    seat: int
    office: str
    name = "reservation"
    ops = None
    reads = frozenset[str]()

    @property
    def writes(self) -> Set[str]:
        return {self.place, self.office}

    @property
    def keys(self) -> list[Key]:
        # Nobody else touches the ticket.
        return [Key(name=f"seat {self.seat} on {self.place}")]

    async def carry_out(self, hand: Hand, kinds: Mapping[str, str]) -> int:
        place, seat, office = self.place, self.seat, self.office
        lock = "" if kinds[place] == "sqlite" else " FOR UPDATE"
        ((holder,),) = await hand.rows(place, f"SELECT holder FROM {SEATS} WHERE id = {seat}{lock}")
        step = -1 if holder else 1
        await hand.run(place, f"UPDATE {SEATS} SET holder = '{hand.gid if step > 0 else ''}' WHERE id = {seat}")
        await hand.run(office, f"INSERT INTO {TICKETS} VALUES ('{hand.gid}', '{place}', {seat}, {step})")
        return step


def draw_job(nodes: Sequence[str], dice: random.Random, now_s: float, value: int, works: Sequence[str]) -> Job | View:
    """A random job of these kinds. ``now_s`` says which lists are in use, ``value`` to ``value + OPS_MAX`` may be appended."""
    window = int(now_s / WINDOW_S)
    keys = [f"{node}/{window}.{number}" for node in nodes for number in range(LISTS_PER_NODE)]
    match dice.choice(works):
        case "transfer":
            return Transfer(draw_transfer(nodes, dice))
        case "view":
            return View([["r", key, None] for key in keys])
        case "lists":
            drawn = sorted(dice.choices(keys, k=dice.randint(1, OPS_MAX)))
            appends = [dice.random() < 0.5 for _ in drawn]
            return Appends(
                [
                    ["append", key, value + number] if appends[number] else ["r", key, None]
                    for number, key in enumerate(drawn)
                ]
            )
        case _:
            place, office = dice.sample(list(nodes), 2)
            return Reservation(place, dice.randrange(SEATS_PER_NODE), office)


def append_text(kind: str, key: str, value: int) -> str:
    """Append to a list, which is made if it is not there."""
    insert = f"INSERT INTO {LISTS} (id, elements) VALUES ('{key}', '{value}')"
    if kind == "mariadb":
        return f"{insert} ON DUPLICATE KEY UPDATE elements = CONCAT(elements, ',{value}')"
    return f"{insert} ON CONFLICT (id) DO UPDATE SET elements = {LISTS}.elements || ',{value}'"


def elements(text: str) -> list[int]:
    """A list as it is stored."""
    return [int(element) for element in text.split(",")]


def node_of(key: str) -> str:
    """The node that a list is on."""
    return key.partition("/")[0]


async def found(session: PlainSession) -> None:
    """Make the tables of lists and reservations."""
    await demolish(session)
    suffix = " ENGINE=InnoDB" if session.kind == "mariadb" else ""
    await session.command(f"CREATE TABLE {LISTS} (id varchar(60) PRIMARY KEY, elements text NOT NULL){suffix}")
    await session.command(f"CREATE TABLE {SEATS} (id integer PRIMARY KEY, holder varchar(40) NOT NULL){suffix}")
    await session.command(
        f"CREATE TABLE {TICKETS} (gid varchar(40) PRIMARY KEY, place varchar(40) NOT NULL, seat integer NOT NULL,"
        f" step integer NOT NULL){suffix}"
    )
    rows = ",".join(f"({seat}, '')" for seat in range(SEATS_PER_NODE))
    await session.command(f"INSERT INTO {SEATS} (id, holder) VALUES {rows}")


async def demolish(session: PlainSession) -> None:
    """Drop them."""
    for table in TABLES:
        await session.command(f"DROP TABLE IF EXISTS {table}")
