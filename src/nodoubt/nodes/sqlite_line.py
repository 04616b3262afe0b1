"""The line of branches that wait for a database's write lock, over all processes of the machine.

SQLite has waiters poll, less and less often: whoever waits longest looks least, and a newcomer takes the lock in front of
him. So our branches wait in a line, a lock on a file of its own, and only the first looks at the write lock, often. Recovery
does not stand in line: it competes with the first one alone, whatever the crowd.

**The line decides when to look, never what is true**, and holds nobody up for long: who is not first looks too, but seldom. So
a stopped process at its head, a file that cannot be opened or a fork that keeps the lock cost some milliseconds.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType

SUFFIX = "-nodoubt-line"
#: Who is not first tries the write lock at every so many looks.
SELDOM = 25


class Line:
    """One place in the line of a database, taken from the first look to the end of the ``with`` block."""

    __slots__ = ("_database", "_descriptor", "_first", "_looks")

    def __init__(self, database: Path) -> None:
        self._database = database
        self._descriptor: int | None = None
        self._first = False
        self._looks = 0

    def __enter__(self) -> Line:
        try:
            self._descriptor = self._open()
        except OSError:
            # A folder that cannot be written, perhaps: then everybody is first.
            self._first = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def may_try(self) -> bool:
        """Whether to try the write lock at this look."""
        self._looks += 1
        return self._is_first() or self._looks % SELDOM == 0

    def _is_first(self) -> bool:
        if not self._first and self._descriptor is not None:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:
                # A file system without such locks: everybody is first.
                pass
            self._first = True
        return self._first

    def _open(self) -> int:
        path = self._database.with_name(self._database.name + SUFFIX)
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            owner = self._database.stat()
            descriptor = os.open(path, flags | os.O_CREAT, stat.S_IMODE(owner.st_mode) & 0o666)
            if os.geteuid() == 0:
                # As SQLite does with its own files: work done as root must not lock the database's owner out.
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            return descriptor
