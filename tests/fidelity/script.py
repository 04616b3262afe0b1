"""Scripts as data: who does what, one step a line. What comes of it is not written here: a transcript says it.

``a: begin 1`` lets session ``a`` open the branch 1; a line without a name (``restart``, ``end a``) is done by an operator.
Numbers stand for transactions. What the verbs mean is in ``actor``, for SQLite in ``sqlite_work``; a line that begins with
``#`` is a title: a new script begins there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"
KINDS = ("postgresql", "mariadb", "mariadb_log", "sqlite")
#: What each plays.
PARTS = {
    "postgresql": ("both", "postgresql"),
    "mariadb": ("both", "mariadb"),
    "mariadb_log": ("both", "mariadb", "mariadb_log"),
    "sqlite": ("sqlite",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """``who`` is a session, or "" for the operator."""

    who: str
    verb: str
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.who + ': ' if self.who else ''}{' '.join((self.verb, *self.words))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Steps that are done one after another, each once the one before it has ended or waits for a lock.

    At most one waits for a row that is going to be changed: who of several is first is an accident, on PostgreSQL at least.
    """

    title: str
    steps: tuple[Step, ...]


def parse_step(line: str) -> Step:
    """Read one line."""
    who, colon, rest = line.rpartition(": ")
    verb, *words = rest.split()
    return Step(who=who.strip() if colon else "", verb=verb, words=tuple(words))


def scripts(kind: str) -> Iterator[Script]:
    """All scripts that were written for a kind of database: its own, and those that servers share."""
    for name in PARTS[kind]:
        for part in (SCRIPTS / f"{name}.txt").read_text().split("\n# ")[1:]:
            title, *lines = part.strip().splitlines()
            yield Script(title=title, steps=tuple(parse_step(line) for line in lines if line.strip()))
