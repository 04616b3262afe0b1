"""The report as one page of HTML that needs nothing else."""

from __future__ import annotations

from html import escape
from pathlib import Path

from nodoubt.torture.options import Kind
from nodoubt.torture.result import Result

WIDTH, LEFT, RIGHT = 1000, 130, 10
RATE_HEIGHT, DOUBT_HEIGHT, LANE_HEIGHT, GAP = 160, 70, 20, 24
#: A label of the time axis about so often.
TICKS = 10

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222b36; max-width: 1040px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.verdict { padding: .8rem 1rem; border-radius: 6px; font-weight: 600; background: #fbe3e1; color: #8c1d13; }
.verdict.ok { background: #dff1e9; color: #0b5e43; }
table { border-collapse: collapse; } td, th { padding: .15rem 1rem .15rem 0; vertical-align: top; text-align: left; }
td:first-child { color: #66707c; white-space: nowrap; } pre { overflow-x: auto; background: #f4f6f8; padding: .8rem; }
svg text { font: 11px system-ui, sans-serif; fill: #66707c; }
"""


def write(result: Result, path: Path) -> None:
    """Write the page."""
    path.write_text(render(result), encoding="utf-8")


def render(result: Result) -> str:
    """The page as text."""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in result.rows)
    wrong = "".join(f"<li>{escape(text)}</li>" for text in (*result.wrong, *result.pending, result.failure) if text)
    drawings = "".join(f"<pre>{escape(anomaly['drawing'])}</pre>" for anomaly in result.anomalies if anomaly["drawing"])
    reasons = "".join(f"<tr><td>{count:,}</td><td>{escape(why)}</td></tr>" for why, count in result.reasons.items())
    parts = [
        f"<h1>nodoubt torture, seed {result.seed}</h1>",
        f'<p class="verdict{" ok" if result.ok else ""}">{escape(result.verdict)}</p>',
        f"<h2>What is wrong</h2><ul>{wrong}</ul>{drawings}" if wrong else "",
        f"<h2>Figures</h2><table>{rows}</table>",
        f"<h2>Timeline</h2>{timeline(result)}",
        f"<h2>Why transactions did not commit</h2><table>{reasons}</table>" if reasons else "",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>nodoubt torture</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def timeline(result: Result) -> str:
    """Commits in each second, branches in doubt, and a lane for each kind of fault, over one axis of time."""
    span = max(result.seconds, len(result.rates), 1.0)
    lanes = [kind for kind in Kind if kind not in result.off]
    doubt_top = RATE_HEIGHT + 2 * GAP
    lanes_top = doubt_top + DOUBT_HEIGHT + GAP
    bottom = lanes_top + LANE_HEIGHT * len(lanes)

    def x(second: float) -> float:
        return LEFT + second / span * (WIDTH - LEFT - RIGHT)

    most, deepest = max(result.rates, default=1) or 1, max((count for _, count in result.in_doubt), default=1) or 1
    rates = [(x(second), GAP + RATE_HEIGHT * (1 - rate / most)) for second, rate in enumerate(result.rates)]
    doubts = [(x(at), doubt_top + DOUBT_HEIGHT * (1 - count / deepest)) for at, count in result.in_doubt]
    shapes = [
        _line(rates, "#0b6e4f"),
        _label(GAP + 10, f"committed a second, to {most}"),
        _line(doubts, "#b3661b"),
        _label(doubt_top + 10, f"in doubt, to {deepest}"),
    ]
    for number, kind in enumerate(lanes):
        top = lanes_top + LANE_HEIGHT * number
        shapes.append(_label(top + 13, kind.value))
        shapes += [
            f'<rect x="{x(fault.at_s):.1f}" y="{top + 3}" width="{max(2.0, x(fault.lasted_s) - x(0)):.1f}" height="13"'
            f' fill="#a3322a" fill-opacity=".6"><title>{escape(f"{fault.at_s:.1f} s {fault.target}: {fault.detail}")}'
            "</title></rect>"
            for fault in result.faults
            if fault.kind is kind
        ]
    for tick in range(TICKS + 1):
        at = x(span * tick / TICKS)
        shapes.append(f'<path d="M{at:.1f} {GAP}V{bottom}" stroke="#e4e8ec"/>')
        shapes.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{span * tick / TICKS:.0f} s</text>')
    return f'<svg viewBox="0 0 {WIDTH} {bottom + GAP}" role="img">{"".join(shapes)}</svg>'


def _line(points: list[tuple[float, float]], colour: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.2"/>'


def _label(y: float, text: str) -> str:
    return f'<text x="0" y="{y:.0f}">{escape(text)}</text>'
