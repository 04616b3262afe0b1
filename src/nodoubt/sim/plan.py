"""What one seed means: how big the world is, what work is done in it, which faults are on, and how often they strike.

There is one stream of random numbers for each concern, so that switching a kind of fault off leaves the others as they were as
long as it can.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from random import Random
from zlib import crc32

from nodoubt.nodes.contract import Isolation
from nodoubt.sim.network import FATES

#: Where several processes use a file, one dies with a commit that nobody sees: see `Deaths.haunt`.
UNSEEN = "unseen commit"
#: Who is overtaken, by settling or while he settles, may sleep on until home has forgotten, in so many of the histories that
#: have it; and what is noted then.
OVERTAKEN = "owner overtaken"
SETTLER_OVERTAKEN = "settler overtaken"
SLEEPY = 0.3
SLEPT = {
    OVERTAKEN: "an owner slept until its tombstone was purged",
    SETTLER_OVERTAKEN: "a settler slept until what it looked at was purged",
}
#: Faults that strike at a moment, and how many strike in one history at most.
STROKES = {
    "process killed": 3,
    "machine lost power": 3,
    "process paused": 2,
    "server killed": 3,
    "server paused": 2,
    "partition": 3,
    "slow disk": 2,
    "full disk": 2,
    "forced write fails": 2,
    "clock jumps": 3,
    "operator finishes a branch": 3,
    OVERTAKEN: 2,
    SETTLER_OVERTAKEN: 2,
    "seen decision lost": 2,
    UNSEEN: 1,
}
#: Faults that callers make.
CALLERS = ("caller cancels", "caller times out", "block raises", "block ignores an error")
#: What lies in the databases from the beginning: branches of others, of a home that nobody knows, and an unreadable decision.
STRANGERS = "strangers' branches"
KINDS = (*FATES, *STROKES, *CALLERS, STRANGERS)
#: Every so many seeds the faults never end.
UNLIMITED = 5
#: Faults that are drawn twice as often where a node of some kind is: there they show most.
LIKELIER = {
    "process killed": "sqlite",
    "machine lost power": "sqlite",
    "forced write fails": "sqlite",
    "seen decision lost": "mariadb",
}
#: How often a history is about what spans nodes: levels, and views of several of them.
CROWDED = 0.3
#: Faults that are drawn twice as often there: an opening must find what others left, and last until they have gone on.
HOLD_OFF = ("process killed", "process paused", "server killed", "late request")
#: What all its transactions ask for, and how likely a client opens a view instead, as often as they are drawn.
LEVELS = (Isolation.ATOMIC, Isolation.SNAPSHOT, Isolation.SERIALIZABLE)
VIEWS = (0.2, 0.5)
#: How often all nodes tell of stillness then, and how much longer a packet of the first process may take: between two of its
#: packets others begin and end.
STILL = 0.3
FAR = "p0"
FARNESS = (1.0, 10.0, 100.0)
#: The smallest share of all kinds of faults that a history has.
QUIET = 0.08
#: How often MariaDB nodes forget there what somebody has read and was not forced.
FORGETFUL = 0.5
#: For how long faults may strike, in virtual seconds.
HORIZONS_S = (2.0, 8.0, 30.0)
#: How many nodes, as often as it is drawn: with three a history takes a quarter longer, and shows no more mistakes.
COUNTS = (2, 2, 2, 3)
#: Kinds of nodes, as often as they are drawn.
NODES = (*["postgresql"] * 4, *["mariadb"] * 4, *["sqlite"] * 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One history. Everything else follows from it and the seed."""

    seed: int
    #: name -> kind; the first is home wherever nothing else is said
    nodes: dict[str, str]
    processes: int
    clients: int
    transactions: int
    #: Virtual seconds in which faults strike.
    horizon_s: float
    #: Of one packet, one way.
    latency_s: float
    #: kind -> how likely (packets, callers) or how many times (strokes)
    rates: dict[str, float] = field(default_factory=dict)
    isolation: Isolation = Isolation.ATOMIC
    #: How likely a client opens a view of several nodes instead of a transaction.
    views: float = 0.0
    #: MariaDB nodes are slow to force, and die when somebody has read what is not forced.
    forgetful: bool = False
    #: How many times as long a packet of the process FAR takes.
    farness: float = 1.0
    #: How much faster than evenly over the time a client makes its transactions, as often as it is drawn.
    paces: tuple[int, ...] = (1, 10, 10)
    #: Who is overtaken sleeps until home has forgotten.
    sleepy: bool = False
    #: Without end, faults never heal, and only safety is judged.
    heals: bool = True

    def stream(self, concern: str) -> Random:
        """The random numbers of one concern."""
        return _stream(self.seed, concern)

    @property
    def is_slow(self) -> bool:
        """Whether somebody can be held up until what he needs is purged: in a crowd, or in a moment, nobody is."""
        return self.isolation is Isolation.ATOMIC and not self.views and self.horizon_s > min(HORIZONS_S)

    def shrunk(self, *, transactions: int | None = None, faults: Collection[str] | None = None) -> Plan:
        """The same history with fewer transactions, or fewer kinds of faults."""
        rates = {kind: rate for kind, rate in self.rates.items() if faults is None or kind in faults}
        return replace(self, transactions=transactions or self.transactions, rates=rates)

    def lines(self) -> list[str]:
        """What it is, for people."""
        nodes = ", ".join(f"{name} ({kind})" for name, kind in self.nodes.items())
        return [
            f"seed {self.seed}: {nodes}; {self.isolation}; {self.processes} processes, {self.clients} clients,"
            f" {self.transactions} transactions, faults for {self.horizon_s:.0f} s"
            + ("" if self.heals else ", never healing"),
            *(f"  {kind}: {rate:.3g}" for kind, rate in self.rates.items()),
        ]


def _stream(seed: int, concern: str) -> Random:
    # A number, which costs half of what seeding with a text does.
    return Random(seed << 32 | crc32(concern.encode()))


def draw(seed: int) -> Plan:
    """What a seed means."""
    random = _stream(seed, "plan")
    count = random.choice(COUNTS)
    kinds = random.choices(NODES, k=count)
    # Each seed leaves some kinds out, and some seeds most of them: rare orders of events need quiet elsewhere.
    share = random.choice((QUIET, 0.2, 0.4))
    rates: dict[str, float] = {}
    is_crowded = random.random() < CROWDED
    is_still = is_crowded and random.random() < STILL
    is_forgetful = is_crowded and not is_still and random.random() < FORGETFUL
    if is_still:
        kinds = ["postgresql"] * count
    elif is_forgetful:
        # Its own fault needs readers who come to their end, and soon.
        kinds[0], share = "mariadb", QUIET
    nodes = {f"{kind[0]}{number}": kind for number, kind in enumerate(kinds)}
    for kind in KINDS:
        if kind == UNSEEN:
            # Drawn last, when it is known whether others could work on the file.
            continue
        is_likelier = LIKELIER.get(kind) in nodes.values() or (is_crowded and kind in HOLD_OFF)
        if random.random() >= share * (2 if is_likelier else 1):
            continue
        if kind in STROKES:
            rates[kind] = random.randint(1, STROKES[kind])
        elif kind in CALLERS:
            rates[kind] = random.choice((0.1, 0.3, 0.9))
        else:
            rates[kind] = 1 if kind == STRANGERS else 10 ** random.uniform(-3, -0.5)
    if "seen decision lost" in rates and random.random() < 0.5:
        rates.setdefault("operator finishes a branch", 1)
    isolation, views = (random.choice(LEVELS), random.choice(VIEWS)) if is_crowded else (Isolation.ATOMIC, 0.0)
    if is_still and random.random() < 0.7:
        # Whom gates do not hold up is at work beside every view.
        isolation, views = Isolation.ATOMIC, VIEWS[-1]
    if is_forgetful and random.random() < 0.5:
        isolation = Isolation.SERIALIZABLE
    plan = Plan(
        seed=seed,
        nodes=nodes,
        processes=max(random.choice((1, 2, 2, 2, 3)), 2 if is_crowded else 1),
        # Openings last for moments, in which others must be at work.
        clients=max(random.randint(2 if is_crowded else 1, 3), 3 if is_still else 1),
        transactions=random.choice((4, 5, 5, 6, 7, 8, 12)) + (2 if is_crowded else 0),
        horizon_s=random.choice(HORIZONS_S),
        latency_s=random.choice((0.0005, 0.01) if is_forgetful else (0.0005, 0.01, 0.1)),
        rates=rates,
        isolation=isolation,
        views=views,
        forgetful=is_forgetful,
        farness=random.choice(FARNESS) if is_still else 1.0,
        paces=(40, 160) if is_crowded else (1, 10, 10),
        heals=seed % UNLIMITED != 0,
    )
    if plan.processes > 1 and "sqlite" in kinds and random.random() < 2 * share:
        rates[UNSEEN] = STROKES[UNSEEN]
    sleepers = [kind for kind in SLEPT if kind in rates]
    is_sleepy = sleepers and plan.heals and random.random() < SLEEPY
    return _asleep(plan, random.choice(sleepers)) if is_sleepy else plan


def _asleep(plan: Plan, kind: str) -> Plan:
    """The history in which somebody sleeps, and nothing else: all other strikes would wake or end what does."""
    nodes = {f"p{number}": "postgresql" for number in range(len(plan.nodes))}
    return replace(plan, sleepy=True, nodes=nodes, rates={kind: 1}, processes=max(plan.processes, 2))
