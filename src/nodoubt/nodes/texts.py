"""How values are spelt inside our texts, how decision rows are read back, and some words for people.

Our texts carry literals instead of parameters, because several statements travel in one packet. Everything spelt here is
either of a grammar that needs no quoting (gids, names) or quoted by :func:`literal`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace

from nodoubt.nodes.contract import DecisionRow, Isolation, Terms
from nodoubt.protocol.ids import BRANCHES_MAX
from nodoubt.protocol.verdicts import HomeSays


def literal(text: str) -> str:
    """A string literal that PostgreSQL, MariaDB and SQLite read alike: no backslash gets through."""
    return "'" + text.replace("\\", "/").replace("\0", "").replace("'", "''") + "'"


def literals(texts: Iterable[str]) -> str:
    """Literals for an IN list, never empty."""
    return ",".join(literal(text) for text in texts) or "''"


def participants_json(participants: Mapping[int, str]) -> str:
    """Spell ``{branch: node}``; names hold nothing that needs quoting."""
    return "{" + ",".join([f'"{branch}":"{node}"' for branch, node in participants.items()]) + "}"


def decision_row(
    gid: str, decision: str, participants: str, complete: bool | int, age_s: float, reason: str
) -> DecisionRow:
    """Read a row; one that cannot be read is ``BROKEN`` and stops nothing else (recovery rule 16)."""
    broken = DecisionRow(gid=gid, says=HomeSays.BROKEN, age_s=float(age_s), raw=(decision, participants))
    try:
        bound = {int(branch): str(node) for branch, node in json.loads(participants).items()}
        if not all(0 <= branch < BRANCHES_MAX for branch in bound):
            raise ValueError(participants)
    except (ValueError, AttributeError, TypeError):
        return replace(broken, reason=f"participants {participants!r}")
    match decision, bool(complete):
        case "committed", True:
            says = HomeSays.COMPLETE
        case "committed", False:
            says = HomeSays.COMMITTED
        case "aborted", _:
            says = HomeSays.ABORTED
        case _:
            return replace(broken, participants=bound, reason=f"decision {decision!r}")
    return DecisionRow(gid=gid, says=says, participants=bound, age_s=float(age_s), reason=reason)


def unreadable_reason(reason: str, raw: tuple[str, str]) -> str:
    """A person's reason, with what stood in the row that it replaces."""
    return f"{reason} (instead of an unreadable row: decision {raw[0]!r}, participants {raw[1]!r})"


def awaited(terms: Terms) -> str:
    """What a branch on these terms may have waited for in vain."""
    if terms.isolation is Isolation.ATOMIC or not terms.lock_wait_s:
        return ""
    if terms.keys:
        lock = f"the locks of {', '.join(repr(key.name) for key in terms.keys)}"
    else:
        lock = "the lock of the domain" if terms.isolation is Isolation.SERIALIZABLE else "a lock"
    return f", waiting for {lock} up to {terms.lock_wait_s:g} s"
