"""Sometimes-assertions: what many histories must have reached between them, or they prove less than they seem to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from nodoubt.protocol import messages as m
from nodoubt.protocol.states import BRANCHES, PHASES, Phase
from nodoubt.protocol.verdicts import VERDICTS
from nodoubt.sim.plan import KINDS, SLEPT

#: What nodes must have gone through; a commit that comes back was written and not seen when its process died.
MET = (
    "mariadb: seen decision lost",
    "mariadb: seen row lost",
    "postgresql: lock time-out",
    "postgresql: the first committer won",
    "sqlite: disk full",
    "sqlite: forced write failed",
    "sqlite: died in the middle of a call",
    "sqlite: unforced name lost",
    "sqlite: torn file",
    "sqlite: an unseen commit came back",
    *SLEPT.values(),
)
#: What openings of several snapshots came to, and the gates of homes.
OPENINGS = (
    "a gate is held",
    "a home is down",
    "finished what its owner did not",
    "thrown away, for a gate was lost",
)
GATES = tuple(
    f"{kind}: {what}"
    for kind in ("postgresql", "mariadb")
    for what in ("closed", "lost", "a decision was held off", "an opener was held off")
)
#: What snapshots met that were opened without gates.
STILLNESS = ("busy", "quiet", "unmoved", "still", "moved")


def required() -> Mapping[str, tuple[str, ...]]:
    """group -> what must have been reached."""
    return {
        "fault": KINDS,
        "crash point": tuple(f"C{number}" for number in range(1, 14)),
        "verdict": tuple(case.label for case in VERDICTS),
        "transition": tuple(_transitions()),
        "transition of a branch": tuple(f"{state} + {fact.__name__}" for state, fact in BRANCHES),
        "by hand": ("named",),
        "met": MET,
        "opening": OPENINGS,
        "gate": GATES,
        "stillness": STILLNESS,
    }


#: Transitions that the machine allows and the engine never asks for: a block that is over asks for no abort. The tests
#: derive it from the engine (``tests/sim/test_hits.py``).
NEVER = tuple(
    f"{phase} + {fact.__name__}" for phase, fact in PHASES if fact is m.AbortRequested and phase is not Phase.ACTIVE
)


def _transitions() -> Iterable[str]:
    names = (f"{phase} + {fact.__name__}" for phase, fact in PHASES)
    return (name for name in names if name not in NEVER)


def table(hits: Counter[tuple[str, str]]) -> list[str]:
    """All that was reached, and what was not, for people."""
    lines = []
    for group, wanted in required().items():
        reached = [what for name, what in hits if name == group]
        names = sorted({*wanted, *reached})
        lines.append(f"{group}: {sum(hits[group, name] > 0 for name in names)} of {len(names)}")
        lines += [f"  {hits[group, name]:>9,}  {name}" for name in names]
    others = sorted((name, what) for name, what in hits if name not in required())
    return [*lines, "also:", *[f"  {hits[key]:>9,}  {key[0]}: {key[1]}" for key in others]]


def zeros(hits: Counter[tuple[str, str]]) -> list[str]:
    """What was not reached."""
    return [f"{group}: {name}" for group, names in required().items() for name in names if not hits[group, name]]
