"""The journal's file: one for each database, ``<database>-nodoubt``.

Whoever calls :meth:`Journal.write`, :meth:`Journal.drop` or decides anything by :meth:`Journal.read` holds the database's
write lock; without it a read is only a look.

**The rule for errors.** An fsync is never repeated: after its error the system may have thrown the pages away and call the
next one a success. Up to the rename nothing was promised: every error there means *not written* (:class:`NotWritten`, the
vote is no), and what is left under the temporary name is dropped by the next writer; a rename that failed and left the
temporary name in place is one of these. Once the temporary name is gone, an error means *perhaps written*
(:class:`PerhapsWritten`, the vote is unknown): the name may or may not survive a power loss, so only the decision at home
can tell what becomes of the branch. An error while dropping means *perhaps still there*: a journal that
comes back is settled again, which is harmless as long as the evidence in the database is younger than a durable drop
(:meth:`Journal.force`).

The database file itself is never opened here: closing any descriptor of it would drop the POSIX locks that SQLite holds.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from nodoubt.journal.record import RECORD_BYTES_MAX, JournalDamaged, Record, decode, encode

SUFFIX = "-nodoubt"
TEMPORARY_SUFFIX = "-nodoubt-new"


class NotWritten(Exception):
    """Nothing was promised; the ``OSError`` is the ``__cause__``."""


class PerhapsWritten(Exception):
    """The journal may or may not survive; the ``OSError`` is the ``__cause__``."""


class Files:
    """The calls of the operating system, to be replaced where a test wants one of them to fail."""

    def create(self, path: Path, mode: int) -> int:
        """Open a new, empty file for writing, whatever was there."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of the bytes; returns how many."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """Force a file to the disk."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a file."""
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Move a file to its final name."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """Remove a file that may not be there."""
        path.unlink(missing_ok=True)

    def fsync_folder(self, path: Path) -> None:
        """Force the names in a folder to the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def status(self, path: Path) -> os.stat_result:
        """What the system knows of a file. Raises FileNotFoundError."""
        return path.stat()

    def give(self, descriptor: int, owner: os.stat_result) -> None:
        """Let a new file belong to the owner of another one, where we may."""
        if os.geteuid() == 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)

    def read(self, path: Path, limit: int) -> bytes | None:
        """The first bytes of a file; None if there is none."""
        try:
            with path.open("rb") as file:
                # What is asked for is allocated at once, and the limit is far more than a machine may have to give.
                return file.read(min(limit, os.fstat(file.fileno()).st_size))
        except FileNotFoundError:
            return None


class Journal:
    """The journal of one database file; ``database`` is its path with symbolic links resolved, as SQLite does."""

    __slots__ = ("_files", "_temporary", "database", "path")

    def __init__(self, database: Path, files: Files | None = None) -> None:
        self.database = database
        self.path = database.with_name(database.name + SUFFIX)
        self._temporary = database.with_name(database.name + TEMPORARY_SUFFIX)
        self._files = files or Files()

    def write(self, record: Record) -> None:
        """Promise: the record is on the disk when this returns.

        Raises RecordTooLarge and NotWritten when nothing was promised, PerhapsWritten when that cannot be told.
        """
        data = encode(record)
        try:
            self._write_temporary(data)
        except OSError as error:
            self.drop_temporary()
            raise NotWritten(f"the journal {self.path} could not be written: {error}") from error
        try:
            self._files.rename(self._temporary, self.path)
            self._files.fsync_folder(self.path.parent)
        except OSError as error:
            if self._is_there(self._temporary):
                self.drop_temporary()
                raise NotWritten(f"the journal {self.path} could not be given its name: {error}") from error
            raise PerhapsWritten(f"the journal {self.path} may not be on the disk: {error}") from error

    def read(self) -> Record | None:
        """The prepared branch, or None. Raises JournalDamaged, also when the file cannot be read at all."""
        try:
            # One byte more than the longest record shows that there is more.
            data = self._files.read(self.path, RECORD_BYTES_MAX + 1)
            return None if data is None else decode(data)
        except (OSError, JournalDamaged) as error:
            raise JournalDamaged(f"the journal {self.path} is damaged: {error}") from error

    def drop_temporary(self) -> None:
        """Remove what an unfinished write left: it was never promised."""
        try:
            self._files.unlink(self._temporary)
        except OSError:
            # The next writer empties it.
            return

    def drop(self) -> None:
        """Remove the journal and what an unfinished write left. Not forced: see :meth:`force`. Raises OSError."""
        self._files.unlink(self._temporary)
        self._files.unlink(self.path)

    def force(self) -> None:
        """Make removals durable: no dropped journal comes back after this. Raises OSError."""
        self._files.fsync_folder(self.path.parent)

    def written_at_s(self) -> float | None:
        """When the journal was written, by the machine's clock in seconds since 1970; None if there is none."""
        try:
            return self._files.status(self.path).st_mtime
        except OSError:
            return None

    def has_database(self) -> bool:
        """Whether the database file is there."""
        return self._is_there(self.database)

    def check_writable(self, random: str) -> None:
        """Raise OSError unless a journal could be written beside the database. Needs no lock."""
        trial = self._temporary.with_name(f"{self._temporary.name}-{random}")
        self._files.close(self._files.create(trial, 0o600))
        self._files.unlink(trial)

    def _write_temporary(self, data: bytes) -> None:
        owner = self._files.status(self.database)
        descriptor = self._files.create(self._temporary, stat.S_IMODE(owner.st_mode) & 0o666)
        try:
            # As SQLite does with its own files: work done as root must not lock the database's owner out.
            self._files.give(descriptor, owner)
            rest = memoryview(data)
            while rest:
                rest = rest[self._files.write(descriptor, rest) :]
            self._files.fsync(descriptor)
        finally:
            self._files.close(descriptor)

    def _is_there(self, path: Path) -> bool:
        try:
            self._files.status(path)
        except FileNotFoundError:
            return False
        return True
