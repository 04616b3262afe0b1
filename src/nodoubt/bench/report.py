"""The printed page: a table per scenario, then the targets, the notes and the machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from nodoubt.bench.summary import Figures, RaceSummary, Summary, Target

HEAD = ("", "tx/s", "min", "max", "p50 ms", "p95 ms", "p99 ms", "client us", "server us", "nodoubt is")


def page(summary: Summary) -> str:
    """All of it, without a trailing newline."""
    return "\n".join(_lines(summary))


def _lines(summary: Summary) -> Iterator[str]:
    options = summary.options
    for race in summary.races:
        yield f"{race.scenario}  ({options.clients} clients, {options.rounds} rounds of {options.seconds:g} s)"
        yield from table([HEAD, *_rows(race)])
        yield ""
    if (settling := summary.settling) is not None:
        rates = ", ".join(f"{rate:,.0f}" for rate in settling.rates)
        yield f"settle  ({settling.branches:,} branches in doubt, half of them decided, one call)"
        yield f"  {median(settling.rates):,.0f} branches a second; each call: {rates}"
        yield ""
    if summary.targets:
        yield "targets"
        yield from table([_target(target) for target in summary.targets])
        yield ""
    yield "tx/s is the median over rounds; latencies are of all rounds; client and server us are CPU per transaction."
    yield '"nodoubt is 1.20x" that contestant: the median of the ratios within each round, and their range.'
    yield "Every lap's work was checked: the totals on each node moved by what was counted."
    yield from notes(summary)
    yield from (f"- {name} is left out: {why}." for name, why in summary.left_out.items())
    yield ""
    yield from table([(name, text) for name, text in summary.machine.items()], left=2)
    servers = {version for race in summary.races for version in race.versions}
    servers.update(summary.settling.versions if summary.settling else [])
    whose = "given nodes" if options.nodes else "our own, at their defaults but for limits and checkpoints"
    yield f"  servers       {', '.join(sorted(servers))}; {whose}"


def notes(summary: Summary) -> Iterator[str]:
    """What each contestant does, once."""
    said = {figures.name: figures.note for race in summary.races for figures in race.contestants}
    for name, note in said.items():
        yield f"- {name}: {note}."


def _rows(race: RaceSummary) -> Iterator[tuple[str, ...]]:
    ratios = {ratio.peer: f"{ratio.median:.2f}x ({ratio.least:.2f}-{ratio.most:.2f})" for ratio in race.ratios}
    for figures in race.contestants:
        yield (*_row(figures), ratios.get(figures.name, ""))


def _row(figures: Figures) -> tuple[str, ...]:
    return (
        figures.name,
        f"{figures.per_second:,.0f}",
        f"{figures.per_second_min:,.0f}",
        f"{figures.per_second_max:,.0f}",
        f"{figures.p50_ms:.2f}",
        f"{figures.p95_ms:.2f}",
        f"{figures.p99_ms:.2f}",
        f"{figures.client_cpu_us:,.0f}",
        "-" if figures.server_cpu_us is None else f"{figures.server_cpu_us:,.0f}",
    )


def _target(target: Target) -> tuple[str, ...]:
    digits = ".2f" if target.unit == "x" else ",.0f"
    return (
        target.scenario,
        target.what,
        f"{target.got:{digits}}{target.unit}",
        f"of {target.at_least:{digits}}{target.unit}",
        "met" if target.met else "MISSED",
    )


def table(rows: Sequence[Sequence[str]], left: int = 1) -> Iterator[str]:
    """Aligned columns: the first ``left`` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  " + "  ".join(cells).rstrip()
