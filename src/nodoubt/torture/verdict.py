"""What is wrong: the judge's word on the lists, and invariants read from the databases by plain SQL after everything is settled.

Two histories are judged. With all reads, read-committed must hold: a branch is seen by others only after the decision, so
whoever saw something was decided later. Without the reads during the run, of the appends and the last read of every key, strict
serializability must: all locks are held until the decision, so the decisions are the order, and nothing may be torn, lost, or
there although it was aborted. Stronger levels are not promised: between two commits a reader sees one and not yet the other.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nodoubt.demo import bank
from nodoubt.demo.plain import PlainSession
from nodoubt.judge import Level, Verdict, judge
from nodoubt.torture.jobs import LISTS, SEATS, TICKETS, elements
from nodoubt.torture.record import Done, Record, without_reads

#: So many examples of each finding are named.
EXAMPLES_MAX = 5


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


@dataclass(slots=True, kw_only=True)
class Findings:
    """What speaks against the run; nothing does when all are empty."""

    #: A sentence for each rule that was broken.
    wrong: list[str] = field(default_factory=list)
    #: The judge's anomalies that must not be, with their examples.
    anomalies: list[dict[str, Any]] = field(default_factory=list)

    def against(self, rule: str, examples: list[str]) -> None:
        """Note a broken rule, if there are examples."""
        if examples:
            more = ", …" if len(examples) > EXAMPLES_MAX else ""
            self.wrong.append(f"{len(examples)} {rule}: {', '.join(examples[:EXAMPLES_MAX])}{more}")

    def judged(self, verdict: Verdict, level: Level, of: str) -> None:
        """Note what a level forbids."""
        for anomaly in verdict.against(level):
            self.wrong.append(f"{anomaly.name} in {of}, which {level} forbids: {'; '.join(anomaly.words)}")
            self.anomalies.append({"name": anomaly.name, "of": of, "words": anomaly.words, "drawing": anomaly.drawing})


def examine(record: Record, ledgers: Ledgers, money: int) -> tuple[Findings, list[dict[str, Any]]]:
    """Everything that is wrong, and the history that was judged."""
    findings = Findings()
    findings.against("invariants of nodoubt broken, or branches finished by somebody else", record.broken)
    _bank(findings, record, ledgers, money)
    _seats(findings, record, ledgers)
    _lists(findings, record, ledgers)
    history = record.history(ledgers.lists)
    findings.judged(judge(history), Level.READ_COMMITTED, "the history")
    findings.judged(judge(without_reads(history)), Level.STRICT_SERIALIZABLE, "the appends and the last read")
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
        if done.work != "lists":
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
