"""The bank: accounts and a ledger on every node, transfers between them, and the check of its books.

The ledger has one row for each leg of a transfer, written in the same branch as the balance. So the books can be audited with
plain SQL and without believing nodoubt: every transfer's legs must sum to zero over all nodes, and every balance must follow
from the ledger. Knows SQL and money; knows neither processes nor transactions.
"""

from __future__ import annotations

import inspect
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nodoubt.demo.plain import PlainSession
from nodoubt.errors import ConfigError

ACCOUNTS = "demo_bank_accounts"
LEDGER = "demo_bank_transfers"
RUN = "demo_bank_run"

ACCOUNTS_PER_NODE = 100
OPENING_BALANCE = 1000
AMOUNT_MAX = 100
#: This share of the transfers goes to accounts on two other nodes, where there are three.
SHARE_OF_THREE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """A transfer's part on one node."""

    node: str
    account: int
    delta: int


def draw_transfer(nodes: Sequence[str], dice: random.Random) -> list[Leg]:
    """A random amount from one node's account to one or two others. Ordered by node, so that no two can deadlock."""
    count = 3 if len(nodes) > 2 and dice.random() < SHARE_OF_THREE else 2
    giver, *takers = dice.sample(list(nodes), count)
    amounts = [dice.randint(1, AMOUNT_MAX) for _ in takers]
    deltas = {giver: -sum(amounts), **dict(zip(takers, amounts, strict=True))}
    return [
        Leg(node=node, account=dice.randrange(ACCOUNTS_PER_NODE), delta=delta) for node, delta in sorted(deltas.items())
    ]


def _marks(mark: Callable[[int], str]) -> tuple[str, str]:
    """The two statements of a leg, with a driver's placeholders."""
    return (
        f"UPDATE {ACCOUNTS} SET balance = balance + {mark(1)} WHERE id = {mark(2)}",
        f"INSERT INTO {LEDGER} (gid, account, delta) VALUES ({mark(1)}, {mark(2)}, {mark(3)})",
    )


#: How each kind of node writes a parameter.
STATEMENTS: Mapping[str, tuple[str, str]] = {
    "postgresql": _marks(lambda number: f"${number}"),
    "mariadb": _marks(lambda _: "%s"),
    "sqlite": _marks(lambda _: "?"),
}


async def move(kind: str, connection: Any, gid: str, leg: Leg) -> None:
    """Carry out a leg on the driver's own connection, as an application would."""
    update, insert = STATEMENTS[kind]
    for sql, values in ((update, (leg.delta, leg.account)), (insert, (gid, leg.account, leg.delta))):
        if kind == "postgresql":
            await connection.execute(sql, *values)
        elif kind == "mariadb":
            async with connection.cursor() as cursor:
                await cursor.execute(sql, values)
        else:
            done = connection.execute(sql, values)
            if inspect.isawaitable(done):
                await done


def leg_texts(gid: str, leg: Leg) -> tuple[str, str]:
    """The same two statements with their values written out, for plain connections."""
    return (
        f"UPDATE {ACCOUNTS} SET balance = balance + {leg.delta:d} WHERE id = {leg.account:d}",
        f"INSERT INTO {LEDGER} (gid, account, delta) VALUES ('{gid}', {leg.account:d}, {leg.delta:d})",
    )


async def check_vacant(
    session: PlainSession, node: str, *, replace: bool, tables: Sequence[str] = (ACCOUNTS, LEDGER, RUN)
) -> None:
    """Raise ConfigError if tables of these names are there and are not ours to drop."""
    present = [table for table in tables if await session.has_table(table)]
    if present and not await _may_drop(session, present, replace=replace):
        raise ConfigError(
            f"node {node!r} has tables {', '.join(present)} already, and they are not those of a demo that ended",
            hint="if a demo was killed there, run again with --replace; if one is at work, let it end;"
            " if they are yours, name another database",
        )


async def _may_drop(session: PlainSession, present: Sequence[str], *, replace: bool) -> bool:
    """Only what carries the mark of a demo, and of one that is over unless the caller insists."""
    if RUN not in present:
        return False
    states = [state for (state,) in await session.query(f"SELECT state FROM {RUN}")]
    return states == ["kept"] or (replace and states == ["running"])


async def found(session: PlainSession) -> None:
    """Make a node's tables and its share of the money."""
    await demolish(session)
    suffix = " ENGINE=InnoDB" if session.kind == "mariadb" else ""
    await session.command(f"CREATE TABLE {RUN} (id integer PRIMARY KEY, state varchar(20) NOT NULL){suffix}")
    await session.command(f"INSERT INTO {RUN} VALUES (1, 'running')")
    await session.command(f"CREATE TABLE {ACCOUNTS} (id integer PRIMARY KEY, balance bigint NOT NULL){suffix}")
    await session.command(
        f"CREATE TABLE {LEDGER} (gid varchar(40) PRIMARY KEY, account integer NOT NULL, delta bigint NOT NULL){suffix}"
    )
    rows = ",".join(f"({account}, {OPENING_BALANCE})" for account in range(ACCOUNTS_PER_NODE))
    await session.command(f"INSERT INTO {ACCOUNTS} (id, balance) VALUES {rows}")


async def demolish(session: PlainSession) -> None:
    """Drop the tables."""
    for table in (ACCOUNTS, LEDGER, RUN):
        await session.command(f"DROP TABLE IF EXISTS {table}")


async def keep(session: PlainSession) -> None:
    """Mark the tables as those of a demo that is over."""
    await session.command(f"UPDATE {RUN} SET state = 'kept'")


def sum_text(kind: str) -> str:
    """Read all balances of a node and keep them from changing: sums over several nodes are of one moment then.

    SQLite needs no more than its write lock, which the transaction holds from its beginning.
    """
    return f"SELECT id, balance FROM {ACCOUNTS} ORDER BY id" + ("" if kind == "sqlite" else " FOR UPDATE")


async def read_rows(kind: str, connection: Any, sql: str) -> Sequence[Any]:
    """Fetch rows on the driver's own connection."""
    if kind == "postgresql":
        rows: Sequence[Any] = await connection.fetch(sql)
    elif kind == "mariadb":
        async with connection.cursor() as cursor:
            await cursor.execute(sql)
            rows = await cursor.fetchall()
    else:
        done = connection.execute(sql)
        rows = list(await done if inspect.isawaitable(done) else done)
    return rows


@dataclass(slots=True, kw_only=True)
class Books:
    """What an audit read from the nodes, and what is wrong with it."""

    #: Money by node.
    money: dict[str, int] = field(default_factory=dict)
    #: Ledger rows: gid -> node -> delta.
    transfers: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    #: Accounts whose balance does not follow from the ledger: (node, account, difference).
    wrong: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All money."""
        return sum(self.money.values())

    @property
    def halves(self) -> list[str]:
        """Transfers that happened on some of their nodes only."""
        return [gid for gid, legs in self.transfers.items() if sum(legs.values()) != 0]

    def missing(self, told: Collection[str]) -> list[str]:
        """Of the transfers that somebody was told are committed, those that are not in the ledger."""
        return [gid for gid in told if gid not in self.transfers]


async def audit(sessions: Mapping[str, PlainSession]) -> Books:
    """Read all balances and ledgers. Nobody may be at work meanwhile."""
    books = Books()
    for node, session in sessions.items():
        balances = {
            account: int(money) for account, money in await session.query(f"SELECT id, balance FROM {ACCOUNTS}")
        }
        expected = dict.fromkeys(range(ACCOUNTS_PER_NODE), OPENING_BALANCE)
        for gid, account, delta in await session.query(f"SELECT gid, account, delta FROM {LEDGER}"):
            books.transfers[str(gid)][node] = int(delta)
            expected[account] += int(delta)
        books.money[node] = sum(balances.values())
        for account in sorted(expected | balances):
            difference = balances.get(account, 0) - expected.get(account, 0)
            if difference:
                books.wrong.append((node, account, difference))
    return books
