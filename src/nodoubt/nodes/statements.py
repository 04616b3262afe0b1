"""What a SQL text does to the transaction it runs in: found from the heads of its statements.

Lives here: splitting and classifying. The rules themselves are data of each dialect. The server is the second line of
defence; this one exists so that the error names the statement while the user is still looking at it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

#: Longer texts are classified each time instead of being remembered.
_REMEMBERED_CHARACTERS_MAX = 4096

_COMMON = r"""
    "(?:[^"]|"")*" | `[^`]*`                      # quoted names
    | --[^\n]*
    | (?P<end>;)
"""


def _nested(depth: int) -> str:
    """A comment of PostgreSQL, with others in it. What is deeper than a regular expression goes, the server tells of."""
    inner = f"|{_nested(depth - 1)}" if depth else ""
    return rf"/\*(?:[^*/]++|\*(?!/)|/(?!\*){inner})*+\*/"


#: A backslash is a character like any other, except in E''; ``$`` may be part of a name, or begin a quote.
POSTGRESQL = re.compile(
    r"(?<![\w$])[eE]'(?:[^'\\]|''|\\.)*' | '(?:[^']|'')*' | (?<![\w$])\$(?P<tag>[^\W\d]\w*|)\$.*?\$(?P=tag)\$"
    # The statements of a function's body are not the block's.
    rf"| {_nested(4)} | (?i:\bBEGIN\s+ATOMIC\b(?:.*?;)?\s*END\b) | {_COMMON}",
    re.VERBOSE | re.DOTALL,
)
SQLITE = re.compile(rf"'(?:[^']|'')*' | /\*.*?\*/ | {_COMMON}", re.VERBOSE | re.DOTALL)
#: MariaDB and MySQL: a backslash hides the next character, in ``"`` too; ``#`` begins a comment, ``--`` only before a
#: blank; ``/*!`` and ``/*M!`` are no comments: the server executes what is inside.
MYSQL = re.compile(
    r"""
    '(?:[^'\\]|''|\\.)*' | "(?:[^"\\]|""|\\.)*" | `[^`]*`
    | \#[^\n]* | --(?=\s|$)[^\n]* | /\*(?!M?!).*?\*/
    | (?P<end>;)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A forbidden statement: a pattern for its beginning, and why it cannot be carried.

    ``home_may`` lets home's branch run it, because that branch is never prepared. ``in_strings`` looks for it anywhere in the
    text, contents of strings included.
    """

    pattern: re.Pattern[str]
    why: str
    home_may: bool = False
    in_strings: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rules:
    """What a dialect forbids, which statements leave something behind in the session, and how its texts are cut."""

    lexicon: re.Pattern[str]
    forbidden: tuple[Rule, ...]
    lasting: re.Pattern[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was read in a text: broken rules with their statements, whether the session is changed, savepoint steps."""

    broken: tuple[tuple[str, Rule], ...]
    lasting: bool
    savepoints: tuple[tuple[str, str], ...]


def starts(words: str) -> re.Pattern[str]:
    """A pattern for the beginning of a statement; words may be followed by anything that is not part of a word."""
    return re.compile(rf"(?:{words})\b".replace(" ", r"\s+"), re.IGNORECASE)


_SAVEPOINT = re.compile(
    r"(?P<set>SAVEPOINT)\s+(?P<a>\S+)|(?P<to>ROLLBACK\s+(?:WORK\s+|TRANSACTION\s+)?TO)\s+(?:SAVEPOINT\s+)?(?P<b>\S+)"
    r"|(?P<drop>RELEASE)\s+(?:SAVEPOINT\s+)?(?P<c>\S+)",
    re.IGNORECASE,
)


def split(sql: str, lexicon: re.Pattern[str]) -> Sequence[str]:
    """Cut a text into its statements, comments and the contents of strings taken out."""
    pieces: list[str] = []
    current = ""
    position = 0
    for skipped in lexicon.finditer(sql):
        current += sql[position : skipped.start()]
        position = skipped.end()
        if skipped["end"]:
            pieces.append(current)
            current = ""
        elif skipped[0][0] == "`" or (skipped[0][0] == '"' and lexicon is not MYSQL):
            current += skipped[0]
        else:
            # There, unless the server is told otherwise, it is a string.
            current += " ''" if skipped[0][0] in "'\"$eE" else " "
    pieces.append(current + sql[position:])
    return [piece.strip() for piece in pieces if piece.strip()]


def read(sql: str, rules: Rules) -> Reading:
    """Classify a text by a dialect's rules."""
    return _remembered(sql, rules) if len(sql) <= _REMEMBERED_CHARACTERS_MAX else _read(sql, rules)


@lru_cache(maxsize=1024)
def _remembered(sql: str, rules: Rules) -> Reading:
    return _read(sql, rules)


def _read(sql: str, rules: Rules) -> Reading:
    broken: list[tuple[str, Rule]] = []
    savepoints: list[tuple[str, str]] = []
    lasting = False
    broken.extend((sql, rule) for rule in rules.forbidden if rule.in_strings and rule.pattern.search(sql))
    for statement in split(sql, rules.lexicon):
        broken.extend(
            (statement, rule) for rule in rules.forbidden if not rule.in_strings and rule.pattern.match(statement)
        )
        lasting = lasting or rules.lasting.search(statement) is not None
        if step := _SAVEPOINT.match(statement):
            kind = "set" if step["set"] else "to" if step["to"] else "release"
            savepoints.append((kind, (step["a"] or step["b"] or step["c"]).lower()))
    return Reading(broken=tuple(broken), lasting=lasting, savepoints=tuple(savepoints))
