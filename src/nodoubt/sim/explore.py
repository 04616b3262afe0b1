"""Many seeds: over several processes, counted, and a failing one made small."""

from __future__ import annotations

import gc
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context

from nodoubt.sim.mutants import switched_on
from nodoubt.sim.plan import Plan, draw
from nodoubt.sim.run import History, run

#: Seeds that one process runs before it reports.
BATCH = 40
#: Exploring ends after so many failures: they are mostly the same one.
FAILURES_MAX = 10


@dataclass(slots=True, kw_only=True)
class Tally:
    """What many histories came to."""

    runs: int = 0
    attempts: int = 0
    committed: int = 0
    virtual_s: float = 0.0
    #: Of the processes that ran them.
    cpu_s: float = 0.0
    hits: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: seed -> its violations
    failures: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def add(self, history: History) -> None:
        """Count a history."""
        self.runs += 1
        self.attempts += history.attempts
        self.committed += history.committed
        self.virtual_s += history.seconds
        self.hits.update(history.hits)
        if history.violations:
            self.failures[history.plan.seed] = history.violations

    def merge(self, other: Tally) -> None:
        """Count what another process counted."""
        self.runs += other.runs
        self.attempts += other.attempts
        self.committed += other.committed
        self.virtual_s += other.virtual_s
        self.cpu_s += other.cpu_s
        self.hits.update(other.hits)
        self.failures.update(other.failures)


def batch(first: int, count: int, mutant: str) -> Tally:
    """Run some seeds in this process."""
    tally = Tally()
    began = time.process_time()
    # A world that was buried is full of cycles. Collected right behind its end, when nothing else is looked at, it costs least.
    gc.disable()
    gc.freeze()
    try:
        with switched_on(mutant):
            for seed in range(first, first + count):
                tally.add(run(draw(seed)))
                gc.collect(0)
                if len(tally.failures) >= FAILURES_MAX:
                    break
    finally:
        gc.unfreeze()
        gc.enable()
    tally.cpu_s = time.process_time() - began
    return tally


def explore(
    *, first: int, runs: int | None, seconds: float, jobs: int, mutant: str, progress: Callable[[Tally, float], None]
) -> Tally:
    """Run seeds from ``first`` on, until so many were run or the time is over."""
    began = time.monotonic()
    tally = Tally()

    def wanted() -> Iterator[tuple[int, int]]:
        for seeds in _batches(first, runs):
            if time.monotonic() - began >= seconds or len(tally.failures) >= FAILURES_MAX:
                return
            yield seeds

    for found in _tallies(wanted(), mutant, jobs):
        tally.merge(found)
        progress(tally, time.monotonic() - began)
    return tally


def _tallies(batches: Iterator[tuple[int, int]], mutant: str, jobs: int) -> Iterator[Tally]:
    if jobs == 1:
        # Another process would have to start first.
        for seeds in batches:
            yield batch(*seeds, mutant)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(batch, *seeds, mutant) for seeds in islice(batches, 2 * jobs)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
                running.update(pool.submit(batch, *seeds, mutant) for seeds in islice(batches, 1))


def _batches(first: int, runs: int | None) -> Iterator[tuple[int, int]]:
    end = None if runs is None else first + runs
    while end is None or first < end:
        count = BATCH if end is None else min(BATCH, end - first)
        yield first, count
        first += count


def shrink(plan: Plan, mutant: str) -> Plan:
    """The same failure with fewer kinds of faults and fewer transactions, as far as leaving out one at a time goes."""
    with switched_on(mutant):
        for kind in list(plan.rates):
            smaller = plan.shrunk(faults=[other for other in plan.rates if other != kind])
            if run(smaller).violations:
                plan = smaller
        for count in range(1, plan.transactions):
            smaller = plan.shrunk(transactions=count)
            if run(smaller).violations:
                return smaller
    return plan


def command(plan: Plan, mutant: str) -> str:
    """What reproduces a history."""
    words = ["nodoubt", "sim", "--seed", str(plan.seed)]
    drawn = draw(plan.seed)
    if plan.transactions != drawn.transactions:
        words += ["--transactions", str(plan.transactions)]
    if plan.rates != drawn.rates:
        words += ["--faults", ",".join(plan.rates)]
    if mutant:
        words += ["--mutant", mutant]
    return shlex.join(words)
