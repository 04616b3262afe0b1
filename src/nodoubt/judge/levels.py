"""The eight isolation levels, the anomalies, and which level forbids which.

Lives here: names and one table. Sources: Adya ("Weak Consistency", 1999); Daudjee and Salem ("Lazy Database Replication with
Snapshot Isolation", 2006); Cerone, Bernardi and Gotsman ("A Framework for Transactional Consistency Models with Atomic
Visibility", 2015); Kingsbury and Alvaro ("Elle: Inferring Isolation Anomalies from Experimental Observations", 2020).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Level(StrEnum):
    """An isolation level. Each forbids all that those it is stronger than forbid."""

    READ_UNCOMMITTED = "read-uncommitted"
    READ_COMMITTED = "read-committed"
    SNAPSHOT_ISOLATION = "snapshot-isolation"
    STRONG_SESSION_SNAPSHOT_ISOLATION = "strong-session-snapshot-isolation"
    STRONG_SNAPSHOT_ISOLATION = "strong-snapshot-isolation"
    SERIALIZABLE = "serializable"
    STRONG_SESSION_SERIALIZABLE = "strong-session-serializable"
    STRICT_SERIALIZABLE = "strict-serializable"


_SERIALIZABLE = frozenset({Level.SERIALIZABLE, Level.STRONG_SESSION_SERIALIZABLE, Level.STRICT_SERIALIZABLE})
_SNAPSHOT = _SERIALIZABLE | {
    Level.SNAPSHOT_ISOLATION,
    Level.STRONG_SESSION_SNAPSHOT_ISOLATION,
    Level.STRONG_SNAPSHOT_ISOLATION,
}
_COMMITTED = _SNAPSHOT | {Level.READ_COMMITTED}
_ALL = frozenset(Level)
_REALTIME = frozenset({Level.STRONG_SNAPSHOT_ISOLATION, Level.STRICT_SERIALIZABLE})
_SESSION = _REALTIME | {Level.STRONG_SESSION_SNAPSHOT_ISOLATION, Level.STRONG_SESSION_SERIALIZABLE}

CYCLES: Final = ("G0", "G1c", "G-single", "G-nonadjacent", "G2-item")
"""The anomalies that are cycles, the gravest first. Each has a ``-process`` and a ``-realtime`` form."""

PROCESS_FORM, REALTIME_FORM = "-process", "-realtime"

_FORBIDDEN_BY: Final = {
    "duplicate-elements": _ALL,
    "G0": _ALL,
    "garbage-read": _COMMITTED,
    "G1a": _COMMITTED,
    "dirty-update": _COMMITTED,
    "G1b": _COMMITTED,
    "incompatible-order": _COMMITTED,
    "G1c": _COMMITTED,
    "internal": _SNAPSHOT,
    "lost-update": _SNAPSHOT,
    "G-single": _SNAPSHOT,
    "G-nonadjacent": _SNAPSHOT,
    "G2-item": _SERIALIZABLE,
}

# A level that promises nothing of sessions or of real time allows even the gravest cycle through them. What came before in one
# process came before in real time as well.
FORBIDDEN_BY: Final[dict[str, frozenset[Level]]] = {
    **_FORBIDDEN_BY,
    **{f"{name}{PROCESS_FORM}": _FORBIDDEN_BY[name] & _SESSION for name in CYCLES},
    **{f"{name}{REALTIME_FORM}": _FORBIDDEN_BY[name] & _REALTIME for name in CYCLES},
}
"""All anomalies by name, the gravest of each kind first, with the levels that forbid them."""
