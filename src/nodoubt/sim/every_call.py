"""Every call fails once: each scripted transaction, again and again, with its first, second, third … call or await failing.

SQLite's own method ("How SQLite Is Tested", 3.2 to 3.4). The loop over one script ends when its number is never reached. Then
random pairs, whose second failure strikes what the first one brought about.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from random import Random
from typing import get_args

from nodoubt.errors import ConfigError
from nodoubt.sim.fuse import CALLER, CRASHES, ERRORS, POWER, REFUSED, Site, Strike
from nodoubt.sim.mutants import switched_on
from nodoubt.sim.scripts import Result, Script, play, scripts

#: How what is at each site fails.
MODES: dict[Site, tuple[str, ...]] = {
    "call": (*ERRORS, *CRASHES, *POWER),
    "packet": (REFUSED,),
    "await": (*CALLER, *CRASHES),
}
#: The second of a pair strikes within so many calls or awaits of the first.
PAIR_REACH = 32
#: Pairs that one process runs before it reports.
PAIRS_AT_ONCE = 250
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

    def unreached(self) -> list[str]:
        """The ways of failing that never happened: then the injection is broken, not the library sound."""
        known = [f"{site}: {mode}" for site, modes in MODES.items() for mode in modes]
        return [what for what in known if not self.struck[what]]

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
    for site, known in MODES.items():
        for mode in known:
            # Without a file on its disk a machine that loses power is a process that dies.
            if mode not in POWER or "sqlite" in script.kinds:
                yield site, mode


def singles(script: Script, mutant: str = "") -> Tally:
    """Each call and each await of a script fails once, in every mode."""
    tally = Tally(scripts=1)
    with _mistaken(mutant):
        for site, mode in modes(script):
            for number in range(1, NUMBER_MAX):
                if not tally.add(script, [Strike(site, number, mode)]):
                    break
                tally.deepest[site] = max(tally.deepest[site], number)
            else:
                tally.failures[f"{script}; {site}: {mode}"] = (f"there is no end of it after {NUMBER_MAX}",)
    return tally


def pairs(seed: int, count: int, mutant: str = "") -> Tally:
    """Two failures each, at random, in random scripts."""
    random, tally = Random(f"{seed}/pairs"), Tally()
    known = [script for branches in (1, 2, 3) for script in scripts(branches)]
    with _mistaken(mutant):
        while tally.runs < count:
            script = random.choice(known)
            choices = list(modes(script))
            strikes = [Strike(site, random.randint(1, PAIR_REACH), mode) for site, mode in random.choices(choices, k=2)]
            tally.add(script, strikes)
    return tally


@contextmanager
def _mistaken(mutant: str) -> Iterator[None]:
    """With a mutant; the worlds that were buried are full of cycles, and collecting them all at once is cheaper."""
    gc.disable()
    try:
        with switched_on(mutant):
            yield
    finally:
        gc.enable()
        gc.collect()


def explore(
    *, branches: int, pairs_count: int, seed: int, jobs: int, mutant: str, progress: Callable[[Tally], None]
) -> Tally:
    """All scripts of up to so many branches, each call failing once, and so many pairs, in several processes."""
    tally = Tally()
    # The long ones first, so that no process is left alone with one in the end.
    known = [script for count in range(branches, 0, -1) for script in scripts(count)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(singles, script, mutant) for script in known]
        for first in range(0, pairs_count, PAIRS_AT_ONCE):
            running.append(pool.submit(pairs, seed + first, min(PAIRS_AT_ONCE, pairs_count - first), mutant))
        for future in as_completed(running):
            tally.merge(future.result())
            progress(tally)
    return tally


def replay(text: str, mutant: str = "") -> Result:
    """Run what a story says, traced. Raises ConfigError."""
    try:
        first, *rest = text.split("; ")
        end, kinds = first.rsplit(" ", 1)
        script = Script(tuple(kinds.split("+")), end)
        strikes = [_strike(each) for each in rest]
        if script not in scripts(len(script.kinds)):
            raise ValueError(first)
    except ValueError as error:
        raise ConfigError(
            f"no such run: {text!r} ({error})", hint='write it as "commit postgresql+sqlite; call 12: error before"'
        ) from error
    with switched_on(mutant):
        return play(script, strikes, traced=True)


def _strike(text: str) -> Strike:
    place, mode = text.split(": ")
    site, number = place.split(" ")
    for known in get_args(Site):
        if site == known and mode in MODES[known]:
            return Strike(known, int(number), mode)
    raise ValueError(text)
