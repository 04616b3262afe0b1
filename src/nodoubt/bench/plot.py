"""The picture: for each race a row with throughput, every round a point, and with latency percentiles."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from nodoubt.bench.contestants import NODOUBT
from nodoubt.bench.summary import SETTLE_RATE_TARGET, TARGETS, RaceSummary, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS: Final = "#0b6e4f"
PEERS: Final = "#9aa5b1"
INK: Final = "#222b36"
MARKS: Final = (("p50_ms", "o", "○ median latency"), ("p95_ms", "s", "□ 95 %"), ("p99_ms", "D", "◇ 99 %"))


def draw(summary: Summary, path: Path) -> None:
    """Write the picture in the format that the path's suffix names."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    races, settling = summary.races, summary.settling
    heights = [0.9 + 0.5 * len(race.contestants) for race in races] + [1.4] * (settling is not None)
    with mpl.rc_context({"font.size": 9.5, "text.color": INK, "axes.labelcolor": INK, "svg.fonttype": "none"}):
        figure = Figure(figsize=(11, sum(heights) + 0.9), layout="constrained")
        grid = figure.add_gridspec(len(heights), 2, height_ratios=heights, width_ratios=(5, 3))
        for row, race in enumerate(races):
            _throughput(figure.add_subplot(grid[row, 0]), race)
            _latency(figure.add_subplot(grid[row, 1]), race)
        if settling is not None:
            _settling(figure.add_subplot(grid[len(races), :]), settling.rates, settling.branches)
        options = summary.options
        figure.suptitle(
            f"nodoubt bench: {options.clients} clients, {options.rounds} rounds of {options.seconds:g} s; "
            f"{summary.machine['cpu']}, {summary.machine['loop']}",
            fontsize=10,
        )
        figure.savefig(path, dpi=130)


def _throughput(axes: Axes, race: RaceSummary) -> None:
    ratios = {ratio.peer: ratio.median for ratio in race.ratios}
    most = max(figures.per_second_max for figures in race.contestants)
    for place, figures in enumerate(race.contestants):
        axes.barh(place, figures.per_second, height=0.62, color=_colour(figures.name), zorder=2)
        spread = [place + 0.4 * ((n + 0.5) / len(figures.rates) - 0.5) for n in range(len(figures.rates))]
        axes.plot(figures.rates, spread, "o", markersize=3.5, color="white", markeredgecolor=INK, zorder=3)
        text = f"{figures.per_second:,.0f}"
        if figures.name in ratios:
            text += f"   nodoubt is {ratios[figures.name]:.2f}x"
            if (target := TARGETS.get(race.scenario, {}).get(figures.name)) is not None:
                text += f" (target {target:.1f}x)"
        axes.text(figures.per_second_max + most * 0.02, place, text, va="center")
    axes.set_xlim(0, most * 1.85)
    axes.set_title(f"{race.scenario}: transactions a second", loc="left", fontsize=10.5, fontweight="bold")
    _furnish(axes, [figures.name for figures in race.contestants])


def _latency(axes: Axes, race: RaceSummary) -> None:
    for place, figures in enumerate(race.contestants):
        colour = _colour(figures.name)
        axes.plot([figures.p50_ms, figures.p99_ms], [place, place], color=colour, linewidth=2, zorder=2)
        for name, marker, _ in MARKS:
            axes.plot(getattr(figures, name), place, marker, color=colour, markeredgecolor=INK, markersize=6, zorder=3)
        axes.annotate(f"{figures.p99_ms:.1f}", (figures.p99_ms, place), (7, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, max(figures.p99_ms for figures in race.contestants) * 1.15)
    key = "  ".join(label for _, _, label in MARKS)
    axes.set_title(f"ms: {key}", loc="left", fontsize=10.5, fontweight="bold")
    _furnish(axes, [""] * len(race.contestants))


def _settling(axes: Axes, rates: list[float], branches: int) -> None:
    rate = median(rates)
    axes.barh(0, rate, height=0.5, color=OURS, zorder=2)
    axes.plot(rates, [0] * len(rates), "o", markersize=3.5, color="white", markeredgecolor=INK, zorder=3)
    axes.axvline(SETTLE_RATE_TARGET, color=INK, linestyle="--", linewidth=1, zorder=3)
    axes.annotate("target", (SETTLE_RATE_TARGET, 0.42), (4, 0), textcoords="offset points", va="center")
    axes.annotate(f"{rate:,.0f}", (max(rates), 0), (7, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, max(*rates, SETTLE_RATE_TARGET) * 1.15)
    title = f"settle: branches a second, {branches:,} in doubt, one call"
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
    _furnish(axes, [NODOUBT])
    axes.set_ylim(0.55, -0.4)


def _furnish(axes: Axes, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="x", color="#dfe3e8", zorder=0)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _colour(name: str) -> str:
    return OURS if name == NODOUBT else PEERS
