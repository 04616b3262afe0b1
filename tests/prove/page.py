"""The page of mutants, made from what finds them: ``python -m tests.prove.page [--check]``.

Enumeration is breadth first and a seed is one history, so all numbers are the same on every machine.
"""

from __future__ import annotations

import gc
import re
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodoubt.prove.explorer import Findings, World, explore
from nodoubt.sim.mutants import MUTANTS as SIMULATED
from nodoubt.sim.mutants import switched_on
from nodoubt.sim.plan import draw
from nodoubt.sim.run import run
from tests.prove.mutants import MUTANTS, Mutant

PAGE = Path(__file__).parents[2] / "docs" / "mutants.md"
#: Each mutant is found within this time on one core.
SECONDS_MAX = 60.0
#: Seeds after which a mutant has survived; they take longer than that.
SEEDS_MAX = 10_000

_TEXT = """\
# Mutants

Mistakes that others made in such protocols, put into the production code one at a time. The proof must find each: one that
survives would be a hole in it. Made by `make docs` from `tests/prove/mutants.py` (what enumeration finds) and
`src/nodoubt/sim/mutants.py` (what simulation finds, beginning with seed 0; `nodoubt sim --mutant NAME` does it again). Each is
found in less than a minute; `make prove-deep` measures that. The tests fail when a mutant survives or this page is stale.

| mistake | caught by | after | what breaks |
|---|---|---|---|
"""
_EXPLORED = {mutant.name: mutant for mutant in MUTANTS}
_GID = re.compile(r"[0-9a-z]{26}")


@dataclass(frozen=True, kw_only=True)
class Caught:
    """By which seed a mutant of the simulation was caught, and the first thing that was violated."""

    seed: int
    violation: str


def row(mutant: Mutant, findings: Findings) -> str:
    """One line of the table: a mutant that enumeration finds."""
    after = f"{findings.states:,} states, a story of {len(findings.trail) - 1} steps"
    return _row(mutant.name, "enumeration", after, findings.wrong)


def simulated_row(name: str, caught: Caught) -> str:
    """One line of the table: a mutant that simulation finds."""
    after = f"{caught.seed + 1:,} seed" + ("s" if caught.seed else "")
    return _row(f"{SIMULATED[name].mistake} (`{name}`)", "simulation", after, _GID.sub("…", caught.violation))


def _row(mistake: str, by: str, after: str, broken: str) -> str:
    return f"| {mistake} | {by} | {after} | {broken.replace('|', '/')} |\n"


def page(rows: Iterable[str]) -> str:
    """The whole page."""
    return _TEXT + "".join(rows)


def seed_of(name: str) -> int:
    """Which seed the page says catches a mutant."""
    found = re.search(rf"\(`{name}`\) \| simulation \| ([\d,]+) seed", PAGE.read_text("utf-8"))
    return int(found.group(1).replace(",", "")) - 1 if found else 0


def violated(name: str, seed: int) -> tuple[str, ...]:
    """What a mutant violates in one history, where the library itself violates nothing."""
    with switched_on(name):
        violations = run(draw(seed)).violations
    return violations if violations and not run(draw(seed)).violations else ()


def simulated(name: str) -> Caught:
    """The first seed that catches a mutant. Raises LookupError for one that survives."""
    for seed in range(SEEDS_MAX):
        if violations := violated(name, seed):
            return Caught(seed=seed, violation=violations[0])
        # As exploring does: worlds that are buried are full of cycles.
        gc.collect(0)
    raise LookupError(f"{name} survived {SEEDS_MAX:,} seeds")


def _explored(mutant: Mutant) -> str:
    with pytest.MonkeyPatch.context() as patch:
        mutant.apply(patch)
        return row(mutant, explore(World(mutant.scope)))


def _found(name: str) -> str:
    """The line of a mutant of either kind."""
    began = time.process_time()
    made = simulated_row(name, simulated(name)) if name in SIMULATED else _explored(_EXPLORED[name])
    if (seconds := time.process_time() - began) > SECONDS_MAX:
        raise TimeoutError(f"{name} was found after {seconds:.0f} s")
    return made


def _rows() -> list[str]:
    with ProcessPoolExecutor() as pool:
        return list(pool.map(_found, [*_EXPLORED, *SIMULATED]))


if __name__ == "__main__":
    gc.disable()
    gc.freeze()
    made = page(_rows())
    if "--check" in sys.argv:
        if made != PAGE.read_text("utf-8"):
            raise SystemExit("docs/mutants.md is stale: run `make docs`")
        print(f"{len(MUTANTS)} mutants found by enumeration, {len(SIMULATED)} by simulation, each within a minute")
    else:
        PAGE.write_text(made, "utf-8")
