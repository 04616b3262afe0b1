"""The end report: what was done, what the audit found, and the verdict, for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nodoubt.demo.killer import POINTS
from nodoubt.demo.view import difference, thousands

#: How many examples of a fault are shown.
EXAMPLES_MAX = 3


@dataclass(slots=True, kw_only=True)
class Result:
    """All that is known at the end."""

    unprotected: bool
    #: Node -> kind.
    nodes: Mapping[str, str]
    workers: int
    seed: int
    seconds: float
    kills: int
    kills_at: Mapping[str, int]
    transactions: int
    aborted: int
    unknown: int
    settled: int
    total_before: int
    #: None when a node could not be read.
    total_after: int | None
    settle_seconds: float = 0.0
    #: What is still prepared, undecided or out of sight, one text each.
    pending: Sequence[str] = ()
    #: Why the workers could not go on, if they could not.
    failure: str = ""
    halves: Sequence[str] = ()
    missing: Sequence[str] = ()
    wrong: Sequence[tuple[str, int, int]] = ()
    #: Where to look afterwards.
    look: Sequence[str] = field(default=())

    @property
    def lost(self) -> bool:
        """Whether anything is not as it must be in the books."""
        return self.total_after != self.total_before or bool(self.halves or self.missing or self.wrong)

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return not (self.lost or self.pending or self.failure)

    def as_json(self) -> dict[str, Any]:
        """The closing object of ``--json``."""
        return {
            "ok": self.ok,
            "protected": not self.unprotected,
            "nodes": dict(self.nodes),
            "workers": self.workers,
            "seed": self.seed,
            "seconds": round(self.seconds, 2),
            "transactions": self.transactions,
            "per_second": round(self.transactions / self.seconds, 1) if self.seconds else 0.0,
            "aborted_and_retried": self.aborted,
            "unknown": self.unknown,
            "kills": self.kills,
            "kills_in_commit": sum(count for point, count in self.kills_at.items() if point),
            "settled": self.settled,
            "settle_seconds": round(self.settle_seconds, 2),
            "total_before": self.total_before,
            "total_after": self.total_after,
            "half_transfers": len(self.halves),
            "committed_but_missing": len(self.missing),
            "accounts_off_the_ledger": len(self.wrong),
            "in_doubt": len(self.pending),
            "failure": self.failure,
            "look": list(self.look),
        }

    def as_text(self) -> str:
        """The report for people."""
        how = "plain commits, one node after the other" if self.unprotected else "transactions of nodoubt"
        where = ", ".join(f"{node} ({kind})" for node, kind in self.nodes.items())
        rows = [
            ("bank on", where),
            ("moved by", f"{self.workers} worker processes, {how}"),
            ("transfers", f"{thousands(self.transactions)} in {self.seconds:.1f} s" + self._rate()),
            ("kill -9", self._kills()),
        ]
        if not self.unprotected:
            rows.append(("settled", f"{_count(self.settled, 'branch', 'branches')} that killed workers left behind"))
        after = "not read" if self.total_after is None else thousands(self.total_after)
        rows += [
            ("money before", thousands(self.total_before)),
            ("money after", after),
        ]
        if not self.unprotected:
            rows.append(("in doubt", f"{len(self.pending)}"))
        lines = ["", *(f"  {name:<13} {text}" for name, text in rows), "", *self._faults(), self._verdict()]
        lines += [f"  {line}" for line in self.look]
        return "\n".join(lines)

    def _rate(self) -> str:
        return f" ({self.transactions / self.seconds:,.0f} per second)" if self.seconds else ""

    def _kills(self) -> str:
        if not self.kills:
            return "none"
        inside = sum(count for point, count in self.kills_at.items() if point)
        text = f"{self.kills} workers" + (f", {inside} of them in the middle of a commit:" if inside else "")
        for point, count in sorted(self.kills_at.items()):
            if point:
                text += f"\n{'':16}{count} {POINTS.get(point, point)}"
        return text

    def _faults(self) -> list[str]:
        lines = []
        if self.halves:
            lines.append(
                f"  {_count(len(self.halves), 'transfer', 'transfers')} happened by halves{_some(self.halves)}"
            )
        if self.missing:
            lines.append(f"  {len(self.missing)} were reported as committed and are nowhere{_some(self.missing)}")
        if self.wrong:
            places = [f"account {account} on {node} ({delta:+d})" for node, account, delta in self.wrong]
            lines.append(f"  {len(self.wrong)} balances do not follow from the transfers{_some(places)}")
        if self.failure:
            lines.append(f"  {self.failure}")
        lines += [f"  pending: {text}" for text in self.pending]
        return [*lines, ""] if lines else []

    def _verdict(self) -> str:
        if self.total_after is None:
            return "NOT KNOWN: a node could not be read, so the money could not be counted."
        if self.lost and self.total_after != self.total_before:
            text = f"LOST: {difference(self.total_before, self.total_after)}."
            if self.unprotected:
                return f"{text} That is what plain commits do when a process dies between two of them."
            return text
        if self.lost:
            return "LOST: the total is right, but the books are not."
        if self.pending:
            return "IN DOUBT: the money is right, but not everything could be settled in time."
        if self.failure:
            return "CUT SHORT: nothing lost, nothing in doubt, but the workers could not go on."
        if self.unprotected:
            return "Nothing was lost this time: no worker died between two commits. Try more --kills."
        return "Nothing lost, nothing in doubt."


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _some(examples: Sequence[str]) -> str:
    more = ", …" if len(examples) > EXAMPLES_MAX else ""
    return f": {', '.join(examples[:EXAMPLES_MAX])}{more}"
