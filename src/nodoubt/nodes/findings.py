"""What the findings of all adapters share: identity, and comparing a node's facts with what only this process knows."""

from __future__ import annotations

from dataclasses import replace

from nodoubt.errors import ConfigError
from nodoubt.nodes.contract import Finding
from nodoubt.nodes.identity import Identity, check_identity

#: A larger difference of clocks is worth a warning: ages are then misjudged, and with them when to settle and to purge.
CLOCK_DIFFERENCE_S_MAX = 5.0


def identity_finding(found: Identity | None, name: str, domain: str) -> Finding:
    """Whether the database is the node that it is configured as."""
    fact = found.id if found else None
    try:
        check_identity(found, name, domain)
    except ConfigError as error:
        return Finding(check="identity", level="error", text=error.message, fix=error.hint, fact=fact)
    return Finding(check="identity", level="ok", text=f"is node {name!r} of domain {domain!r}", fact=fact)


def compared(finding: Finding, *, now_s: float, pool_size: int) -> Finding:
    """A finding, judged by this machine's clock (seconds since 1970) and the size of the node's pool."""
    if finding.check == "clock" and isinstance(finding.fact, float):
        ahead_s = finding.fact - now_s
        if abs(ahead_s) > CLOCK_DIFFERENCE_S_MAX:
            text = f"is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the clock of this machine"
            return replace(finding, level="warning", text=text, fix="let both machines follow one time server")
    if finding.check == "prepared" and isinstance(finding.fact, int) and 0 < finding.fact < pool_size:
        text = f"{finding.text}, fewer than the node's pool_size of {pool_size}"
        return replace(finding, level="warning", text=text, fix="allow more of them on the server, or lower pool_size")
    return finding
