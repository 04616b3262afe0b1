"""The end: figures, findings and the verdict, for people and as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nodoubt.nodes.contract import Isolation
from nodoubt.torture.injector import Fault
from nodoubt.torture.options import Kind
from nodoubt.torture.verdict import Judged


@dataclass(slots=True, kw_only=True)
class Result:
    """All that is known at the end."""

    unprotected: bool
    #: Node -> kind.
    nodes: Mapping[str, str]
    workers: int
    isolation: Isolation
    seed: int
    seconds: float
    #: The command that does the same again.
    again: Sequence[str]
    #: Ending -> how many transactions; and why some failed.
    endings: Mapping[str, int]
    reasons: Mapping[str, int]
    #: Committed transactions in each second.
    rates: Sequence[int] = ()
    faults: Sequence[Fault] = ()
    off: Mapping[Kind, str] = field(default_factory=dict)
    #: (second, prepared branches).
    in_doubt: Sequence[tuple[float, int]] = ()
    settled: int = 0
    longest_in_doubt_s: float = 0.0
    longest_what: str = ""
    settle_seconds: float = 0.0
    wrong: Sequence[str] = ()
    anomalies: Sequence[Mapping[str, Any]] = ()
    judged: Sequence[Judged] = ()
    lost_reads: int = 0
    #: What is still prepared, undecided or out of sight.
    pending: Sequence[str] = ()
    #: Why the run ended early, if it did.
    failure: str = ""
    files: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return not (self.wrong or self.pending or self.failure)

    @property
    def transactions(self) -> int:
        """Whatever became of them."""
        return sum(self.endings.values())

    @property
    def counts(self) -> dict[str, int]:
        """Faults by kind."""
        return {kind.value: sum(fault.kind is kind for fault in self.faults) for kind in Kind if kind not in self.off}

    @property
    def verdict(self) -> str:
        """In one sentence."""
        if self.wrong:
            words = "CONVICTED: " + (
                "plain commits tear transactions, for those who read between two of them, and for ever when processes,"
                " servers or networks fail there."
                if self.unprotected
                else "a transaction was not all or nothing, or somebody was told a lie, or saw what nobody must see."
            )
        elif self.pending:
            words = "IN DOUBT: nothing is torn, but not everything could be settled in time."
        elif self.failure:
            words = "CUT SHORT: nothing is torn and nothing in doubt, but the run could not go on, or shows nothing."
        else:
            words = "CLEAN: every transaction happened everywhere or nowhere, and everybody was told the truth."
            if self.isolation is not Isolation.ATOMIC:
                words += f" Nobody saw what isolation={self.isolation.value!r} forbids."
        return words

    def as_json(self) -> dict[str, Any]:
        """The closing object of ``--json``."""
        return {
            "ok": self.ok,
            "protected": not self.unprotected,
            "nodes": dict(self.nodes),
            "workers": self.workers,
            "isolation": self.isolation.value,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "transactions": self.transactions,
            "committed": self.endings.get("ok", 0),
            "aborted": self.endings.get("fail", 0),
            "unknown": self.endings.get("info", 0),
            "reasons": dict(self.reasons),
            "faults": sum(self.counts.values()),
            "faults_by_kind": self.counts,
            "faults_off": {kind.value: why for kind, why in self.off.items()},
            "settled": self.settled,
            "settle_seconds": round(self.settle_seconds, 2),
            "longest_in_doubt_seconds": round(self.longest_in_doubt_s, 1),
            "wrong": list(self.wrong),
            "judged": [
                {"of": part.of, "promised": part.promised, "transactions": part.transactions, "holds": list(part.holds)}
                for part in self.judged
            ],
            "lost_reads": self.lost_reads,
            "anomalies": [{"name": anomaly["name"], "of": anomaly["of"]} for anomaly in self.anomalies],
            "in_doubt": list(self.pending),
            "failure": self.failure,
            "files": list(self.files),
            "again": shlex.join(self.again),
        }

    @property
    def rows(self) -> list[tuple[str, str]]:
        """The figures for people."""
        how = "plain commits, one node after the other" if self.unprotected else "transactions of nodoubt"
        rate = f" ({self.transactions / self.seconds:,.0f} per second)" if self.seconds else ""
        endings = f"{self.endings.get('ok', 0):,} committed, {self.endings.get('fail', 0):,} aborted"
        rows = [
            ("nodes", ", ".join(f"{node} ({kind})" for node, kind in self.nodes.items())),
            ("work", f"{self.workers} worker processes, {how}"),
            ("isolation", self.isolation.value),
            ("transactions", f"{self.transactions:,} in {self.seconds:.0f} s{rate}"),
            ("", f"{endings}, {self.endings.get('info', 0):,} whose client does not know"),
            ("faults", f"{sum(self.counts.values()):,}"),
            *(("", f"{count:,} {kind}") for kind, count in self.counts.items()),
            *(("", f"{kind.value} is off: {why}") for kind, why in self.off.items()),
        ]
        if not self.unprotected:
            doubt = f"{self.longest_in_doubt_s:.1f} s" + (f" ({self.longest_what})" if self.longest_what else "")
            rows += [
                ("settled", f"{self.settled:,} branches by others than their owners"),
                ("in doubt", f"{len(self.pending)} at the end; the longest {doubt}"),
            ]
        for part in self.judged:
            # Of levels that do not contain each other, the last is named.
            strongest = part.holds[-1] if part.holds else "no level"
            found = f"{strongest} (promised: {part.promised})"
            rows.append(("judged", f"{part.of}, {part.transactions:,} transactions: {found}"))
        if self.lost_reads:
            rows.append(("", f"{self.lost_reads:,} read on MariaDB what it lost before it was on disk: set aside"))
        return [*rows, ("seed", f"{self.seed}"), ("again", shlex.join(self.again))]

    def as_text(self) -> str:
        """The report for people."""
        lines = ["", *(f"  {name:<13} {text}" for name, text in self.rows), ""]
        lines += [f"  {text}" for text in (*self.wrong, *self.pending, self.failure) if text]
        lines += ["", self.verdict] if self.wrong or self.pending or self.failure else [self.verdict]
        return "\n".join([*lines, *(f"  {file}" for file in self.files)])
