"""Every call fails once: each scripted transaction, again and again, with its first, second, third … call or await failing.

SQLite's own method ("How SQLite Is Tested", 3.2 to 3.4). The loop over one script ends when its number is never reached. Then
random pairs, whose second failure strikes what the first one brought about.
"""

from __future__ import annotations

import gc
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from random import Random

from nodoubt.sim.fuse import CALLER, CRASHES, ERRORS, POWER, Site, Strike
from nodoubt.sim.mutants import switched_on
from nodoubt.sim.scripts import Script, play, scripts

#: The second of a pair strikes within so many calls or awaits of the first.
PAIR_REACH = 40
#: No script comes near it; a loop that does will never end.
NUMBER_MAX = 5000


@dataclass(slots=True, kw_only=True)
class Tally:
    """What many runs came to."""

    runs: int = 0
    scripts: int = 0
    #: The largest number that was reached, by site.
    deepest: Counter[str] = field(default_factory=Counter)
    #: How often each site failed in each mode.
    struck: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    #: What failed -> its violations
    failures: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def merge(self, other: Tally) -> None:
        """Count what another process counted."""
        self.runs += other.runs
        self.scripts += other.scripts
        self.deepest |= other.deepest
        self.struck.update(other.struck)
        self.told.update(other.told)
        self.failures.update(other.failures)

    def add(self, script: Script, strikes: Sequence[Strike]) -> bool:
        """Run a script and count it; returns whether all strikes were reached."""
        result = play(script, strikes)
        self.runs += 1
        self.told[result.told or "nobody"] += 1
        for strike in strikes[: len(result.struck)]:
            self.struck[f"{strike.site}: {strike.mode}"] += 1
        if result.violations:
            self.failures[story(script, strikes)] = (*result.struck, *result.violations)
        return len(result.struck) == len(strikes)


def story(script: Script, strikes: Sequence[Strike]) -> str:
    """What a run is, for people."""
    return "; ".join([str(script), *map(str, strikes)])


def modes(script: Script) -> Iterator[tuple[Site, str]]:
    """How each call and each await can fail."""
    for mode in (*ERRORS, *CRASHES, *(POWER if "sqlite" in script.kinds else ())):
        yield "call", mode
    for mode in (*CALLER, *CRASHES):
        yield "await", mode


def singles(script: Script, mutant: str = "") -> Tally:
    """Each call and each await of a script fails once, in every mode."""
    tally = Tally(scripts=1)
    with switched_on(mutant):
        for site, mode in modes(script):
            for number in range(1, NUMBER_MAX):
                if not tally.add(script, [Strike(site, number, mode)]):
                    break
                tally.deepest[site] = max(tally.deepest[site], number)
    gc.collect()
    return tally


def pairs(seed: int, count: int, mutant: str = "") -> Tally:
    """Two failures each, at random, in random scripts."""
    random, tally = Random(f"{seed}/pairs"), Tally()
    known = [script for branches in (1, 2, 3) for script in scripts(branches)]
    with switched_on(mutant):
        while tally.runs < count:
            script = random.choice(known)
            choices = list(modes(script))
            strikes = [
                Strike(site, random.randint(1, PAIR_REACH), mode) for site, mode in random.choices(choices, k=2)
            ]
            tally.add(script, strikes)
    return tally
