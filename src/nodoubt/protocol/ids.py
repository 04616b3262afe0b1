"""Names of things: gids, branch ids, node and domain names, and how branch ids are spelt inside each kind of database.

Lives here: grammar only. Clock and randomness are handed in.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from nodoubt.errors import ConfigError

#: Crockford's base32 keeps the order of the numbers, so that gids sort by time in every database and in ``ls``.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
#: Ten bits at a time, as gids are made for every transaction.
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_GID = re.compile(rf"[0-7][{_ALPHABET}]{{25}}")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_PREFIX = "nd1"

#: Branches are numbered from 0. Who asks what became of a transaction whose branches nobody knows asks for each number; and a
#: branch id has to stay within the 64 bytes of an XA bqual.
BRANCHES_MAX = 100
#: Tells our XA ids from those of other transaction managers ("nd" in ASCII). X/Open XA leaves the value to the manager.
XA_FORMAT = 0x6E64


def new_gid(unix_ms: int, random: bytes) -> str:
    """Make a UUIDv7 (RFC 9562, section 5.7) as 26 base32 characters, from milliseconds since 1970 and 10 random bytes."""
    entropy = int.from_bytes(random[:10], "big")
    number = (
        (unix_ms & (2**48 - 1)) << 80 | 0x7 << 76 | (entropy >> 68 & 0xFFF) << 64 | 0b10 << 62 | entropy & (2**62 - 1)
    )
    return _base32(number, 26)


def gid_at(unix_ms: int) -> str:
    """The smallest gid of a millisecond: gids below it are older."""
    return _base32((unix_ms & (2**48 - 1)) << 80, 26)


def gid_unix_ms(gid: str) -> int:
    """When a gid was made, in milliseconds since 1970 by its maker's clock. For people and purging only, never for safety."""
    number = 0
    for character in gid:
        number = number << 5 | _ALPHABET.index(character)
    return number >> 80


def is_gid(text: object) -> bool:
    """Whether this is a text that has the form of a gid."""
    return isinstance(text, str) and _GID.fullmatch(text) is not None


def _base32(number: int, length: int) -> str:
    return "".join([_PAIRS[number >> shift & 1023] for shift in range((length - 2) * 5, -1, -10)])


def token(random: bytes) -> str:
    """Spell 5 random bytes as 8 characters: names a session in the branches that it prepares."""
    return _base32(int.from_bytes(random[:5], "big"), 8)


def check_name(what: str, name: str) -> str:
    """Return ``name`` if it may name a node or domain, else raise :class:`ConfigError`."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{what} {name!r} is not a valid name",
            hint="use a lower-case letter, then up to 30 lower-case letters, digits, '-' or '_'",
        )
    return name


class BranchId(NamedTuple):
    """Names one branch so that anybody can settle it with nothing but the databases themselves.

    ``session`` names the database session that prepared it, where prepared branches stay attached to their session (MariaDB).
    """

    domain: str
    gid: str
    branch: int
    home: str
    session: str = ""

    def text(self) -> str:
        """The spelling for PostgreSQL (at most 199 bytes) and for journals."""
        return f"{_PREFIX}.{self.domain}.{self.gid}.{self.branch}.{self.home}"

    def xa(self) -> tuple[str, str]:
        """The spelling for XA: gtrid and bqual of at most 64 bytes each (X/Open XA, section 4.2)."""
        return f"{_PREFIX}.{self.domain}.{self.gid}", f"{self.branch}.{self.home}.{self.session}"


def parse_text(text: str) -> BranchId | None:
    """Read :meth:`BranchId.text` back; None if the text is not ours to the letter."""
    parts = text.split(".")
    if len(parts) != 5:
        return None
    prefix, domain, gid, branch, home = parts
    return _branch_id(prefix, domain, gid, branch, home, "")


def parse_xa(gtrid: str, bqual: str) -> BranchId | None:
    """Read :meth:`BranchId.xa` back; None if the id is not ours to the letter."""
    parts = [*gtrid.split("."), *bqual.split(".")]
    if len(parts) != 6:
        return None
    prefix, domain, gid, branch, home, session = parts
    return _branch_id(prefix, domain, gid, branch, home, session)


def _branch_id(prefix: str, domain: str, gid: str, branch: str, home: str, session: str) -> BranchId | None:
    numbered = branch.isascii() and branch.isdigit() and str(int(branch)) == branch and int(branch) < BRANCHES_MAX
    named = _NAME.fullmatch(domain) and _NAME.fullmatch(home)
    if prefix != _PREFIX or not numbered or not named or not is_gid(gid):
        return None
    return BranchId(domain=domain, gid=gid, branch=int(branch), home=home, session=session)
