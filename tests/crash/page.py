"""The page of the crash matrix, made from its table: ``python -m tests.crash.page``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from tests.crash.matrix import FORMS, MOMENTS, Cell, Form, cell_of

PAGE = Path(__file__).parents[2] / "docs" / "crash-matrix.md"

_TEXT = """\
# The crash matrix

Every way to go wrong, at every moment of a commit, with every kind of home: what is tried on real servers, how often, and why
not where it is not. Made by `make docs` from `tests/crash/matrix.py`, from which the tests take their cases; a test fails when
a cell has neither a case nor a reason.

A number is how many cases run in a cell; they differ in the kinds of the other nodes. A letter is a reason.
"""


def page() -> str:
    """The whole page."""
    moments = "".join(f"- **{name}** {what}\n" for name, what in MOMENTS.items())
    return "\n".join((_TEXT, moments, *("\n".join(_form(form)) + "\n" for form in FORMS.values())))


def _form(form: Form) -> Iterator[str]:
    runs = Counter(map(cell_of, form.cases))
    reasons: dict[str, str] = {}
    yield f"## {form.name} ({form.rule})\n"
    yield f"{form.what} Test: `tests/crash/{form.test}`.\n"
    yield f"| home | branches | to | settled by | {' | '.join(form.moments)} |"
    yield "|---" * (4 + len(form.moments)) + "|"
    cells = sorted(form.cells, key=_line)
    for (home, branches, end, settler), line in groupby(cells, key=_line):
        by_moment = {cell.moment: _entry(form, cell, runs, reasons) for cell in line}
        entries = " | ".join(by_moment[moment] for moment in form.moments)
        yield f"| {home} | {branches} | {end} | {settler} | {entries} |"
    if reasons:
        yield ""
        yield from (f"- {letter}: {why}" for why, letter in reasons.items())


def _line(cell: Cell) -> tuple[str, int, str, str]:
    return cell.home, cell.branches, cell.end, cell.settled_by


def _entry(form: Form, cell: Cell, runs: Counter[Cell], reasons: dict[str, str]) -> str:
    if runs[cell]:
        return str(runs[cell])
    why = next(never.why for never in form.never if never.covers(cell))
    return reasons.setdefault(why, chr(ord("a") + len(reasons)))


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
