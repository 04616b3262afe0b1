"""From laps to figures: medians, percentiles, ratios, and the targets that they are held against.

A ratio is the median of the ratios within each round: what slows the machine for a while slows both sides of a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

from nodoubt.bench.contestants import HAND_WRITTEN, NODOUBT, SQLALCHEMY, TWO_COMMITS
from nodoubt.bench.isolation import TWO_BEGINS, UNGATED
from nodoubt.bench.runner import RaceResult
from nodoubt.bench.settling import NAME as SETTLE
from nodoubt.bench.settling import SettleResult
from nodoubt.bench.work import Lap, Options, percentile

TARGETS: Final = {
    "postgresql+postgresql": {HAND_WRITTEN: 1.0, SQLALCHEMY: 1.5, TWO_COMMITS: 0.7},
    "gate": {UNGATED: 0.9},
    "openings": {UNGATED: 0.75},
    "opening": {TWO_BEGINS: 0.4},
    "serializable": {NODOUBT: 0.7},
}
"""The least ratio to a peer, by scenario."""

SETTLE_RATE_TARGET: Final = 1500.0
"""The least number of branches that one call settles in a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is told of one contestant in one scenario. CPU is in microseconds per transaction."""

    name: str
    note: str
    rates: list[float]
    per_second: float
    per_second_min: float
    per_second_max: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    client_cpu_us: float
    server_cpu_us: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """nodoubt against a peer: the median over rounds, and its range."""

    peer: str
    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Something that the project wants of itself. ``unit`` is "x" or "/s"."""

    scenario: str
    what: str
    at_least: float
    got: float
    unit: str

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.got >= self.at_least


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceSummary:
    """The figures of one race."""

    scenario: str
    versions: list[str]
    contestants: list[Figures]
    ratios: list[Ratio]


@dataclass(slots=True, kw_only=True)
class Summary:
    """The figures of a whole run."""

    options: Options
    machine: dict[str, str]
    races: list[RaceSummary] = field(default_factory=list)
    settling: SettleResult | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    plot: str = ""

    @property
    def targets(self) -> list[Target]:
        """The targets of the scenarios that were run."""
        found = [
            Target(scenario=race.scenario, what=ratio.peer, at_least=at_least, got=ratio.median, unit="x")
            for race in self.races
            for ratio in race.ratios
            if (at_least := TARGETS.get(race.scenario, {}).get(ratio.peer)) is not None
        ]
        if self.settling is not None:
            rate = median(self.settling.rates)
            found.append(
                Target(scenario=SETTLE, what="branches in one call", at_least=SETTLE_RATE_TARGET, got=rate, unit="/s")
            )
        return found

    @property
    def all_met(self) -> bool:
        """Whether every target is reached; one whose scenario was left out is not."""
        unknown = self.left_out.keys() & {*TARGETS, SETTLE}
        return not unknown and all(target.met for target in self.targets)

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints. ``ratios`` is keyed by scenario and peer."""
        settling = self.settling
        return {
            "ratios": {race.scenario: {ratio.peer: ratio.median for ratio in race.ratios} for race in self.races},
            "targets": [{**asdict(target), "met": target.met} for target in self.targets],
            "scenarios": {race.scenario: asdict(race) for race in self.races},
            "settle": settling
            and {
                "branches": settling.branches,
                "versions": settling.versions,
                "per_second": median(settling.rates),
                "rates": settling.rates,
            },
            "left_out": self.left_out,
            "machine": self.machine,
            "options": {**asdict(self.options), "nodes": sorted(self.options.nodes)},  # URLs may hold passwords
            "plot": self.plot,
        }


def summarise(result: RaceResult) -> RaceSummary:
    """The figures of a race."""
    first, *peers = [contestant.name for contestant in result.race.contestants]
    measure = result.race.measure
    notes = {contestant.name: contestant.note for contestant in result.race.contestants}
    return RaceSummary(
        scenario=result.race.name,
        versions=result.versions,
        contestants=[_figures(name, notes[name], [laps[name] for laps in result.rounds]) for name in (first, *peers)],
        ratios=[_ratio(peer, [measure(laps[first]) / measure(laps[peer]) for laps in result.rounds]) for peer in peers],
    )


def _figures(name: str, note: str, laps: Sequence[Lap]) -> Figures:
    rates = [lap.rate for lap in laps]
    latencies_s = sorted(latency for lap in laps for latency in lap.latencies_s)
    server_cpu = [lap.server_cpu_s / lap.count for lap in laps if lap.server_cpu_s is not None]
    return Figures(
        name=name,
        note=note,
        rates=rates,
        per_second=median(rates),
        per_second_min=min(rates),
        per_second_max=max(rates),
        p50_ms=percentile(latencies_s, 50) * 1e3,
        p95_ms=percentile(latencies_s, 95) * 1e3,
        p99_ms=percentile(latencies_s, 99) * 1e3,
        client_cpu_us=median(lap.client_cpu_s / lap.count for lap in laps) * 1e6,
        server_cpu_us=median(server_cpu) * 1e6 if server_cpu else None,
    )


def _ratio(peer: str, ratios: Sequence[float]) -> Ratio:
    return Ratio(peer=peer, median=median(ratios), least=min(ratios), most=max(ratios))
