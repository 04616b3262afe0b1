"""What can be asked of the demo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DOMAIN = "demo"
SECONDS = 10.0
WORKERS = 4
KILLS = 10
SETTLE_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for. Without ``nodes``: three SQLite files in a temporary folder."""

    nodes: Mapping[str, str]
    seed: int
    domain: str = DOMAIN
    seconds: float = SECONDS
    workers: int = WORKERS
    kills: int = KILLS
    unprotected: bool = False
    #: How long the end may take to settle what is left.
    settle_timeout_s: float = SETTLE_TIMEOUT_S
    #: Leave the tables, or the files, for a look.
    keep: bool = False
    #: Drop the tables of a demo that was killed.
    replace: bool = False
