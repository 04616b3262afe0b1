"""The race: in each round every contestant has one lap, in an order that changes from round to round."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from nodoubt.bench import contestants, isolation
from nodoubt.bench.contestants import Contestant
from nodoubt.bench.grounds import Ground, ground
from nodoubt.bench.lines import Line
from nodoubt.bench.sqlalchemy_peer import SQLAlchemy
from nodoubt.bench.work import TABLE, Lap, Options, WorkNotDone, amount

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """A scenario in which contestants take turns. The first contestant is measured against the others."""

    name: str
    kinds: tuple[str, ...]
    contestants: tuple[type[Contestant], ...]
    #: Of what the ratios are.
    measure: Callable[[Lap], float] = attrgetter("rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceResult:
    """All laps by round: ``rounds[3]["nodoubt"]``."""

    race: Race
    versions: list[str]
    rounds: list[dict[str, Lap]] = field(default_factory=list)


_TWO = ("postgresql", "postgresql")
RACES = (
    Race(
        name="postgresql+postgresql",
        kinds=_TWO,
        contestants=(contestants.Nodoubt, contestants.HandWritten, SQLAlchemy, contestants.Unprotected),
    ),
    Race(
        name="postgresql+mariadb",
        kinds=("postgresql", "mariadb"),
        contestants=(contestants.Nodoubt, contestants.HandWritten, contestants.Unprotected),
    ),
    Race(
        name="one-node",
        kinds=("postgresql",),
        contestants=(contestants.Nodoubt, contestants.PlainCommit),
    ),
    Race(name="gate", kinds=_TWO, contestants=(contestants.Nodoubt, isolation.Ungated)),
    Race(name="openings", kinds=_TWO, contestants=(isolation.BesideOpenings, isolation.Ungated)),
    Race(
        name="opening",
        kinds=_TWO,
        contestants=(isolation.Opening, isolation.TwoBegins),
        measure=isolation.quickness,
    ),
    Race(name="serializable", kinds=_TWO, contestants=(isolation.Serializable, contestants.Nodoubt)),
)


async def run_race(race: Race, options: Options, say: Say) -> RaceResult:
    """Start what is needed, run the race, and take it all down. Raises WorkNotDone."""
    say(f"{race.name}: preparing {' and '.join(race.kinds)}")
    with ground(race.kinds, options) as place:
        result = RaceResult(race=race, versions=await place.furnish())
        field_ = [make(place.urls, options) for make in race.contestants]
        opened: list[Contestant] = []
        try:
            for contestant in field_:
                await contestant.open()
                opened.append(contestant)
            async with place.lines() as lines:
                await _rounds(result, field_, place, lines, options, say)
        finally:
            for contestant in opened:
                await contestant.close()
            await place.clear()
    return result


async def _rounds(
    result: RaceResult,
    entrants: Sequence[Contestant],
    place: Ground,
    lines: Sequence[Line],
    options: Options,
    say: Say,
) -> None:
    """Round 0 is for warming up and counts for nothing."""
    for number in range(options.rounds + 1):
        seconds = options.seconds if number else min(1.0, options.seconds)
        laps = {c.name: await run_lap(c, number, seconds, place, lines) for c in order(entrants, number)}
        rates = ", ".join(f"{c.name} {laps[c.name].rate:,.0f}/s" for c in entrants)
        say(f"{result.race.name}: {f'round {number} of {options.rounds}' if number else 'warm-up'}: {rates}")
        if number:
            result.rounds.append(laps)


def order(entrants: Sequence[Contestant], number: int) -> list[Contestant]:
    """Rotated by one each round, and backwards in every second, so that nobody keeps his place or his predecessor."""
    turn = number % len(entrants)
    rotated = [*entrants[turn:], *entrants[:turn]]
    return rotated[::-1] if number % 2 else rotated


async def run_lap(contestant: Contestant, number: int, seconds: float, place: Ground, lines: Sequence[Line]) -> Lap:
    """Measure one lap and check that its work was done. Raises WorkNotDone."""
    before = await totals(lines)
    gc.collect()
    server_cpu_s = place.cpu_s
    began, cpu_began = time.perf_counter(), time.process_time()
    latencies_s = await contestant.run(number, seconds)
    await contestant.calm()
    elapsed_s, client_cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    if server_cpu_s is not None:
        server_cpu_s = (place.cpu_s or 0.0) - server_cpu_s
    check(contestant, len(latencies_s), before, await totals(lines))
    return Lap(
        contestant=contestant.name,
        seconds=elapsed_s,
        latencies_s=latencies_s,
        client_cpu_s=client_cpu_s,
        server_cpu_s=server_cpu_s,
    )


async def totals(lines: Sequence[Line]) -> list[int]:
    """The sum of all accounts on each node."""
    return [int((await line.query(f"SELECT sum(balance) FROM {TABLE}"))[0][0]) for line in lines]


def check(contestant: Contestant, count: int, before: Sequence[int], after: Sequence[int]) -> None:
    """Raise WorkNotDone unless the totals moved by exactly what was counted."""
    if not count:
        raise WorkNotDone(f"{contestant.name} finished no transaction")
    for number, (was, is_) in enumerate(zip(before, after, strict=True)):
        moved = count * amount(number) if contestant.moves else 0
        if is_ - was != moved:
            raise WorkNotDone(
                f"{contestant.name} counted {count} transactions, but the total of node {number} moved by {is_ - was}"
                f" instead of {moved}"
            )
