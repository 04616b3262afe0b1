"""What stands in a WAL file behind the last frame that anybody sees.

Whoever dies in the midst of COMMIT, or whose fsync fails there, may have written all his frames and not yet shown them: the index
of the file, shared memory, still names the commit before as the last. Nobody sees such a commit, and the next writer's frames
overwrite it. But who finds the file without its index, because all had closed it, reads it up to the last commit that is whole,
and then the one that nobody saw comes back. ("WAL-mode File Format", https://sqlite.org/walformat.html, 1.1 and 4.)
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
#: The magic number's last bit is set where checksums are of big-endian words.
MAGIC = 0x377F0682


def has_unseen(wal: Path, frames: int) -> bool:
    """Whether a frame that a reader without the index would go on to read stands behind the last of those that are seen."""
    try:
        descriptor = os.open(wal, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return _has_unseen(descriptor, frames)
    finally:
        # SQLite's locks are on the database and on the index, so closing this file lets go of none.
        os.close(descriptor)


def _has_unseen(descriptor: int, frames: int) -> bool:
    header = os.pread(descriptor, HEADER_BYTES, 0)
    if len(header) < HEADER_BYTES:
        return False
    magic, _, page_bytes = struct.unpack_from(">3I", header)
    frame_bytes = FRAME_HEADER_BYTES + page_bytes
    behind = HEADER_BYTES + frames * frame_bytes
    frame = os.pread(descriptor, frame_bytes, behind)
    # Most often what follows is of an earlier round through the file, and has its salts.
    if len(frame) < frame_bytes or frame[8:16] != header[16:24]:
        return False
    last = os.pread(descriptor, FRAME_HEADER_BYTES, behind - frame_bytes)[16:24] if frames else header[24:32]
    return struct.unpack(">2I", frame[16:24]) == _checksum(
        struct.unpack(">2I", last), frame[:8] + frame[FRAME_HEADER_BYTES:], "<>"[magic & 1]
    )


def _checksum(seed: tuple[int, ...], content: bytes, order: str) -> tuple[int, int]:
    first, second = seed
    words = struct.unpack(f"{order}{len(content) // 4}I", content)
    for one, other in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second
