"""What is wrong: the judge's word on the lists, and invariants read from the databases by plain SQL after everything is settled.

Several parts of the history are judged. With all reads, what the level of isolation promises must hold. At ``atomic`` that is
read-committed: a branch is seen by others only after the decision, so whoever saw something was decided later; but between two
commits a reader sees one and not yet the other. And a transaction may have read there what MariaDB showed before it was on disk,
and lost when it was killed, as long as nobody was told that it is committed (docs/isolation.md).

Of the appends, the views and the last read of every key, without other reads, strict serializability must hold at every level.
All locks of writes are held until the decision, so the decisions are the order, each view is an instant between two of them, and
nothing may be torn, lost, or there although it was aborted.

At ``serializable`` the transactions are strict-serializable in the order of the moments in which each had all of its locks. A
view is an instant of another order, that of the decisions: a branch that was only read gives up its locks before its transaction
decides. So who reads through views what serializable transactions wrote has a snapshot, and together they keep no more than that.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nodoubt.demo import bank
from nodoubt.demo.plain import PlainSession
from nodoubt.judge import Level, judge
from nodoubt.nodes.contract import Isolation
from nodoubt.torture.jobs import LISTS, SEATS, TICKETS, elements
from nodoubt.torture.record import Done, Record, without_lost, without_reads, without_views

#: So many examples of each finding are named.
EXAMPLES_MAX = 5

#: What all transactions and views together keep.
PROMISED = {
    Isolation.ATOMIC: Level.READ_COMMITTED,
    Isolation.SNAPSHOT: Level.STRONG_SNAPSHOT_ISOLATION,
    Isolation.SERIALIZABLE: Level.STRONG_SNAPSHOT_ISOLATION,
}


@dataclass(slots=True, kw_only=True)
class Ledgers:
    """What the databases hold at the end."""

    books: bank.Books
    lists: dict[str, list[int]] = field(default_factory=dict)
    #: (node, seat) -> the gid that holds it, or "".
    holders: dict[tuple[str, int], str] = field(default_factory=dict)
    #: gid -> (node, seat, step).
    tickets: dict[str, tuple[str, int, int]] = field(default_factory=dict)


async def read(sessions: Mapping[str, PlainSession]) -> Ledgers:
    """Read everything. Nobody may be at work meanwhile."""
    ledgers = Ledgers(books=await bank.audit(sessions))
    for node, session in sessions.items():
        for key, text in await session.query(f"SELECT id, elements FROM {LISTS}"):
            ledgers.lists[str(key)] = elements(str(text))
        for seat, holder in await session.query(f"SELECT id, holder FROM {SEATS}"):
            ledgers.holders[node, int(seat)] = str(holder)
        for gid, place, seat, step in await session.query(f"SELECT gid, place, seat, step FROM {TICKETS}"):
            ledgers.tickets[str(gid)] = (str(place), int(seat), int(step))
    return ledgers


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A part of the history, what it was judged by, and the levels that nothing in it speaks against."""

    of: str
    promised: Level
    #: Transactions that were told to be committed, and views.
    transactions: int
    holds: tuple[Level, ...]


@dataclass(slots=True, kw_only=True)
class Findings:
    """What speaks against the run; nothing does when all are empty."""

    #: A sentence for each rule that was broken.
    wrong: list[str] = field(default_factory=list)
    #: The judge's anomalies that must not be, with their examples.
    anomalies: list[dict[str, Any]] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
    #: Transactions that read on MariaDB what it lost.
    lost_reads: int = 0

    def against(self, rule: str, examples: list[str]) -> None:
        """Note a broken rule, if there are examples."""
        if examples:
            more = ", …" if len(examples) > EXAMPLES_MAX else ""
            self.wrong.append(f"{len(examples)} {rule}: {', '.join(examples[:EXAMPLES_MAX])}{more}")

    def judge(self, of: str, ops: Iterable[dict[str, Any]], level: Level) -> None:
        """Judge a part of the history, and note what the level forbids."""
        verdict = judge(ops)
        holds = tuple(level for level in Level if verdict.holds(level))
        self.judged.append(Judged(of=of, promised=level, transactions=verdict.ok, holds=holds))
        for anomaly in verdict.against(level):
            self.wrong.append(f"{anomaly.name} in {of}, which {level} forbids: {'; '.join(anomaly.words)}")
            self.anomalies.append({"name": anomaly.name, "of": of, "words": anomaly.words, "drawing": anomaly.drawing})


def examine(
    record: Record, ledgers: Ledgers, money: int, isolation: Isolation, deaths_ns: Mapping[str, float]
) -> tuple[Findings, list[dict[str, Any]]]:
    """Everything that is wrong, and the history that was judged. ``deaths_ns`` is of ``without_lost``."""
    findings = Findings()
    findings.against("invariants of nodoubt broken, or branches finished by somebody else", record.broken)
    _bank(findings, record, ledgers, money)
    _seats(findings, record, ledgers)
    _lists(findings, record, ledgers)
    history = record.history(ledgers.lists)
    if isolation is Isolation.ATOMIC:
        history = list(without_lost(history, ledgers.lists, deaths_ns))
        findings.lost_reads = sum("as_read" in op for op in history)
    findings.judge("the history", history, PROMISED[isolation])
    if isolation is Isolation.SERIALIZABLE:
        findings.judge("the transactions", without_views(history), Level.STRICT_SERIALIZABLE)
    findings.judge("the appends, the views and the last read", without_reads(history), Level.STRICT_SERIALIZABLE)
    return findings, history


def _of(record: Record, work: str, ending: str) -> list[Done]:
    return [done for done in record.done.values() if (done.work, done.ending) == (work, ending)]


def _there_as_told(findings: Findings, record: Record, work: str, there: Mapping[str, object]) -> None:
    missing = [done.gid for done in _of(record, work, "ok") if done.gid not in there]
    findings.against(f"{work}s were told to be committed and are nowhere", missing)
    present = [done.gid for done in _of(record, work, "fail") if done.gid in there]
    findings.against(f"{work}s were told to be aborted and are there", present)


def _bank(findings: Findings, record: Record, ledgers: Ledgers, money: int) -> None:
    books = ledgers.books
    if books.total != money:
        findings.wrong.append(f"the money was {money:,} and is {books.total:,}")
    findings.against("transfers happened by halves", books.halves)
    findings.against(
        "balances do not follow from the transfers",
        [f"account {account} on {node} ({delta:+d})" for node, account, delta in books.wrong],
    )
    _there_as_told(findings, record, "transfer", books.transfers)


def _seats(findings: Findings, record: Record, ledgers: Ledgers) -> None:
    """Each seat was taken once more often than given back, or as often; and who holds it has the ticket."""
    taken: dict[tuple[str, int], int] = defaultdict(int)
    for place, seat, step in ledgers.tickets.values():
        taken[place, seat] += step
    torn = []
    for (place, seat), holder in ledgers.holders.items():
        ticket = ledgers.tickets.get(holder)
        if taken[place, seat] != bool(holder) or (holder and ticket != (place, seat, 1)):
            torn.append(f"seat {seat} on {place}, held by {holder or 'nobody'}, has {taken[place, seat]} tickets out")
    findings.against("seats and their tickets contradict each other", torn)
    _there_as_told(findings, record, "reservation", ledgers.tickets)


def _lists(findings: Findings, record: Record, ledgers: Ledgers) -> None:
    """Every append exactly once, and all appends of a transaction or none."""
    there = Counter((key, value) for key, values in ledgers.lists.items() for value in values)
    findings.against("appends are there twice", [str(append) for append, count in there.items() if count > 1])
    halves, missing, present = [], [], []
    for done in record.done.values():
        if done.asked is None:
            continue
        found = [(key, value) in there for function, key, value in done.asked if function == "append"]
        if any(found) and not all(found):
            halves.append(done.gid)
        if done.ending == "ok" and not all(found):
            missing.append(done.gid)
        if done.ending == "fail" and any(found):
            present.append(done.gid)
    findings.against("transactions appended on some of their nodes only", halves)
    findings.against("transactions were told to be committed, and appends of theirs are missing", missing)
    findings.against("transactions were told to be aborted, and appends of theirs are there", present)
