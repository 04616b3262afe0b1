"""The journal's record: bytes in, bytes out. No file, clock or database in here.

::

    magic    8 bytes   b"nodoubt\\n"
    version  2 bytes   big-endian, like all numbers here
    pid      4 bytes   of the writer; for messages only, never a reason to do anything
    lengths  2, 4 and 8 bytes: of the three fields that follow
    branch             the branch id (``BranchId.text``), ASCII
    tables             their columns, and the AUTOINCREMENT counters that the branch moved, JSON, UTF-8
    changeset          what the branch did, as SQLite's session extension spells it: by the numbers of columns
    digest   32 bytes  SHA-256 of everything above

A record is whole or it is damage: every byte stands under the digest, and a byte more or less is damage, too.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nodoubt.protocol.ids import BranchId, parse_text

MAGIC = b"nodoubt\n"
VERSION = 2
_HEAD = struct.Struct(">8sHIHIQ")
_DIGEST_BYTES = hashlib.sha256().digest_size

#: The longest branch id: ``nd1`` and four fields of at most 31, 26, 3 and 31 characters.
BRANCH_BYTES_MAX = 199
#: The names of their columns, and one number for each AUTOINCREMENT table.
TABLES_BYTES_MAX = 1 << 20
#: It is held in memory several times over while it is written and applied.
CHANGESET_BYTES_MAX = 1 << 30
RECORD_BYTES_MAX = _HEAD.size + BRANCH_BYTES_MAX + TABLES_BYTES_MAX + CHANGESET_BYTES_MAX + _DIGEST_BYTES


class JournalDamaged(Exception):
    """The bytes are no record: the promise that they held cannot be read. Never dropped, only shown."""


class RecordTooLarge(Exception):
    """The branch did more than a record may hold: it must not be prepared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One prepared branch.

    ``columns`` maps the changeset's tables to the names of their columns, in the order in which it has their values, and
    ``sequences`` maps tables to the AUTOINCREMENT counter that they reached.
    """

    branch: BranchId
    pid: int
    changeset: bytes
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sequences: Mapping[str, int] = field(default_factory=dict)


def encode(record: Record) -> bytes:
    """Spell a record. Raises RecordTooLarge."""
    branch = record.branch.text().encode("ascii")
    told = {"columns": dict(record.columns), "sequences": dict(record.sequences)}
    tables = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
    for what, length, longest in (
        ("its branch id", len(branch), BRANCH_BYTES_MAX),
        ("what it tells of its tables", len(tables), TABLES_BYTES_MAX),
        ("its changeset", len(record.changeset), CHANGESET_BYTES_MAX),
    ):
        if length > longest:
            raise RecordTooLarge(f"{what} takes {length:,} bytes, more than {longest:,}")
    head = _HEAD.pack(MAGIC, VERSION, record.pid, len(branch), len(tables), len(record.changeset))
    body = b"".join((head, branch, tables, record.changeset))
    return body + hashlib.sha256(body).digest()


def decode(data: bytes) -> Record:
    """Read a record back. Raises JournalDamaged for anything that :func:`encode` did not make."""
    if len(data) < _HEAD.size + _DIGEST_BYTES:
        raise JournalDamaged(f"it has {len(data)} bytes, less than the shortest record")
    magic, version, pid, branch_bytes, tables_bytes, changeset_bytes = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise JournalDamaged("it does not begin as a journal of nodoubt does")
    if version != VERSION:
        raise JournalDamaged(f"it has version {version}, this nodoubt reads version {VERSION}")
    first = _HEAD.size + branch_bytes
    second = first + tables_bytes
    end = second + changeset_bytes
    if len(data) != end + _DIGEST_BYTES:
        raise JournalDamaged(f"it has {len(data)} bytes, its head speaks of {end + _DIGEST_BYTES}")
    if hashlib.sha256(memoryview(data)[:end]).digest() != data[end:]:
        raise JournalDamaged("its checksum does not match its content")
    try:
        branch = parse_text(data[_HEAD.size : first].decode("ascii"))
        told = json.loads(data[first:second])
        columns = {str(table): [str(name) for name in names] for table, names in told["columns"].items()}
        sequences = {str(table): int(reached) for table, reached in told["sequences"].items()}
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise JournalDamaged(f"its checksum matches, but its fields cannot be read: {error}") from error
    if branch is None:
        raise JournalDamaged("its checksum matches, but its branch id is none of ours")
    return Record(branch=branch, pid=pid, changeset=data[second:end], columns=columns, sequences=sequences)
