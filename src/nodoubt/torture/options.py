"""What can be asked of the torture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from nodoubt.nodes.contract import Isolation

DOMAIN = "torture"
SECONDS = 60.0
WORKERS = 4
OWN = ("postgresql", "postgresql", "mariadb")
#: The kind of node that has no server.
FILE = "sqlite"
#: MariaDB with a binary log.
LOGGING = "mariadb-log"
KINDS = ("postgresql", "mariadb", LOGGING, "mysql", FILE)


class Kind(StrEnum):
    """A kind of fault, as ``--faults`` names it."""

    WORKER_KILL = "worker-kill"
    WORKER_PAUSE = "worker-pause"
    NETWORK = "network"
    SERVER_KILL = "server-kill"
    SERVER_PAUSE = "server-pause"
    DISK_FULL = "disk-full"
    SYNC_ERROR = "sync-error"


#: These need a server that we started ourselves.
OF_SERVERS = (Kind.SERVER_KILL, Kind.SERVER_PAUSE, Kind.DISK_FULL, Kind.SYNC_ERROR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for. Without ``nodes``: servers and files of our own, of these kinds."""

    nodes: Mapping[str, str]
    own: Sequence[str] = OWN
    seed: int
    seconds: float = SECONDS
    workers: int = WORKERS
    faults: Sequence[Kind] = tuple(Kind)
    #: How many times more seldom faults come than by default.
    rarity: float = 1.0
    #: What transactions ask for, and what their history is judged by.
    isolation: Isolation = Isolation.ATOMIC
    unprotected: bool = False
    #: Drop the tables of a run that was killed.
    replace: bool = False
    report: Path | None = None
    history: Path | None = None

    @property
    def command(self) -> list[str]:
        """The command that does the same again, without passwords."""
        words = ["nodoubt", "torture", "--seconds", f"{self.seconds:g}", "--workers", str(self.workers)]
        words += ["--seed", str(self.seed), "--faults", ",".join(self.faults)]
        if self.rarity != 1:
            words += ["--rarity", f"{self.rarity:g}"]
        if self.nodes:
            words += ["--nodes", *(f"{name}=URL" for name in self.nodes)]
        else:
            words += ["--own", ",".join(self.own)]
        if self.isolation is not Isolation.ATOMIC:
            words += ["--isolation", self.isolation.value]
        return [*words, *(["--unprotected"] if self.unprotected else [])]
