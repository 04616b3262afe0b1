"""Which faults strike when and whom: drawn once from the seed, before the run.

Each kind has a random stream of its own, so that leaving one out changes nothing of the others. The network's faults are not
here: its proxies draw schedules of requests (``nodoubt.testing.proxy_faults``).
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from nodoubt.demo.killer import BETWEEN, POINTS
from nodoubt.torture import gates
from nodoubt.torture.options import Kind

#: On the average one fault of a kind in so many seconds, and at least one in each run.
EVERY_S = {
    Kind.WORKER_KILL: 3.0,
    Kind.WORKER_PAUSE: 8.0,
    Kind.SERVER_KILL: 20.0,
    Kind.SERVER_PAUSE: 20.0,
    Kind.DISK_FULL: 60.0,
    Kind.SYNC_ERROR: 45.0,
}
#: How long a fault lasts, in seconds, at least and at most; not longer than a quarter of the run.
LASTS_S = {
    Kind.WORKER_PAUSE: (1.0, 15.0),
    Kind.SERVER_KILL: (0.0, 2.0),
    Kind.SERVER_PAUSE: (0.5, 5.0),
    Kind.DISK_FULL: (1.0, 4.0),
    Kind.SYNC_ERROR: (2.0, 5.0),
}
#: Faults are spread over this part of the run.
FIRST, LAST = 0.05, 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One planned fault."""

    at_s: float
    kind: Kind
    #: The server that is struck; "" for a worker, which is drawn among those at work.
    server: str = ""
    lasts_s: float = 0.0
    #: The step at which a worker kills itself or stops; None for a strike from outside.
    point: str | None = None


def draw(
    seed: int,
    seconds: float,
    kinds: Collection[Kind],
    servers: Sequence[str],
    *,
    rarity: float = 1.0,
    unprotected: bool,
) -> list[Strike]:
    """All strikes of a run in the order of time, each kind at a random moment of each of its equal parts."""
    strikes = []
    for kind, every_s in EVERY_S.items():
        dice = random.Random(f"{seed}/{kind}")
        count = max(1, round(seconds / every_s / rarity)) if kind in kinds else 0
        part = (LAST - FIRST) * seconds / max(count, 1)
        for number in range(count):
            shortest, longest = LASTS_S.get(kind, (0.0, 0.0))
            strikes.append(
                Strike(
                    at_s=FIRST * seconds + part * (number + dice.random()),
                    kind=kind,
                    server=dice.choice(servers) if servers and not kind.startswith("worker") else "",
                    lasts_s=min(dice.uniform(shortest, longest), seconds / 4),
                    point=_point(kind, number, dice, unprotected=unprotected),
                )
            )
    return sorted(strikes, key=lambda strike: strike.at_s)


def _point(kind: Kind, number: int, dice: random.Random, *, unprotected: bool) -> str | None:
    """Every other worker dies or stops at a step of a commit or of an opening, which strikes from outside rarely hit."""
    if number % 2 or kind not in (Kind.WORKER_KILL, Kind.WORKER_PAUSE):
        return None
    return BETWEEN if unprotected else dice.choice((*POINTS, *gates.POINTS))
