"""One SQLite for a file in one process, and the files that were opened still there.

POSIX locks belong to a process, not to a connection, and closing *any* descriptor of a file gives up all that the process holds
on it. Connections of one copy of SQLite know of each other and take care. Another copy in the process, which Python's ``sqlite3``
is unless apsw was built against the system's library, or a program that opens and closes the file itself, undoes the locks of the
first: others write beneath a held write lock, and a close takes the WAL file away under those who go on writing it.
(https://www.sqlite.org/howtocorrupt.html, 2.2 and 2.2.1.)

So while a node is open, ``sqlite3.connect`` and ``open`` are refused for its file in this process, by an audit hook (PEP 578):
Python tells it of both before they happen. What goes around Python is not seen coming: another library's own SQLite, ``ATTACH``
on a connection to another file. Where that, or somebody who moves files (2.4), took one away, :meth:`Alone.is_moved` tells.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from nodoubt.errors import ConfigError, GuardError
from nodoubt.nodes import apsw_driver

Identity = tuple[int, int]

_EVENTS = frozenset({"sqlite3.connect", "open"})
_HINT = "read it through the manager (`tm.snapshot()`), through apsw, or in another process"

#: Another thread's connection of apsw may be on its way to its list, or about to be closed.
PASSING_S = 0.2

_open_files: dict[Identity | None, list[Alone]] = {}


class Alone:
    """The files of one open node, from when a connection to it has opened them all until :meth:`leave`."""

    def __init__(self, node: str, path: Path) -> None:
        self._node = node
        self.process = os.getpid()
        self._database, self._wal = path, path.with_name(f"{path.name}-wal")
        index = path.with_name(f"{path.name}-shm")
        self._were = _identity(self._database), _identity(self._wal)
        self._locked = [found for found in (self._were[0], _identity(index)) if found is not None]
        for identity in self._locked:
            _open_files.setdefault(identity, []).append(self)
        _watch_opens()

    def leave(self) -> None:
        """Let others open them again."""
        for identity in self._locked:
            _open_files[identity].remove(self)
            if not _open_files[identity]:
                del _open_files[identity]
        self._locked = []

    def is_moved(self) -> bool:
        """Whether what is written now would go to a file that is no longer there."""
        return (_identity(self._database), _identity(self._wal)) != self._were

    def refusal(self, call: str) -> GuardError:
        """The error of a call that would undo locks."""
        return GuardError(
            f"{call}: the file is node {self._node!r} of an open manager, and closing it again"
            " would undo SQLite's locks in this process: commits would be lost",
            hint=_HINT,
        )


def require_alone(node: str, path: Path) -> None:
    """Raise ConfigError if this process has the file open otherwise than through apsw."""
    until = time.monotonic() + PASSING_S
    while _is_open_otherwise(path):
        if time.monotonic() >= until:
            raise ConfigError(
                f"node {node!r}: {path} is open in this process already, past apsw;"
                " once that is closed, SQLite's locks are gone",
                hint=f"close it before the manager is opened (a connection of sqlite3, perhaps). Then {_HINT}",
            )
        time.sleep(PASSING_S / 50)


def _is_open_otherwise(path: Path) -> bool:
    here, descriptors = _identity(path), Path("/dev/fd")
    if here is None or not descriptors.is_dir() or here not in map(_identity, descriptors.iterdir()):
        return False
    # What apsw holds cannot be told from the rest.
    return not any(not name or _identity(name) == here for name in apsw_driver.open_files())


def _identity(path: Any) -> Identity | None:
    try:
        # pathlib takes four times as long, at each file that the program opens.
        found = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError, TypeError):
        return None
    return found.st_dev, found.st_ino


@functools.cache
def _watch_opens() -> None:
    """Once and for ever: an audit hook cannot be taken back."""
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _EVENTS or not _open_files:
        return
    target = arguments[0]
    if event == "sqlite3.connect":
        if not apsw_driver.IS_OWN_COPY:
            # Both are the system's library.
            return
        target = _named(target)
    elif isinstance(target, int):
        # A descriptor that was opened before.
        return
    for alone in _open_files.get(_identity(target), ()):
        # A child that was forked has the entry and none of the locks.
        if alone.process == os.getpid():
            raise alone.refusal(f"{event}({os.fspath(target)!r})")


def _named(database: Any) -> Any:
    """The path that ``sqlite3.connect`` was given, perhaps in a URI."""
    text = os.fsdecode(database) if isinstance(database, bytes | os.PathLike) else database
    return unquote(urlsplit(text).path) if isinstance(text, str) and text.startswith("file:") else text
