"""A machine with files on a disk that loses, at power failure, what was not forced: contents that were written and names.

Whoever runs on the machine may die at any call of the disk, in the middle of what he is doing:
:class:`nodoubt.sim.loop.Died` stops him, and what Python does on its way out changes nothing any more.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from nodoubt.journal.files import Files
from nodoubt.sim.loop import Died, ProcessLoop, Schedule
from nodoubt.sim.observer import Observer
from nodoubt.sim.server import EPOCH_S, Disk

#: Calls of the disk at which a death leaves most behind: content that is not forced, and a commit that nobody has seen.
FORCE, UNSEEN_COMMIT = "force", "unseen commit"
#: One of a block's work, where no journal keeps others from working on without it.
UNSEEN_WORK = f"{UNSEEN_COMMIT} of work that is not journalled"


@dataclass(slots=True, eq=False)
class _Inode:
    content: bytes
    forced: bytes
    modified_at_s: float
    #: A forced write failed, and the system threw the pages away: what is read is never on the disk.
    lost: bool = False


class Machine:
    """One disk, and those who may die while they use it."""

    def __init__(self, schedule: Schedule, observer: Observer, random: Random) -> None:
        self.schedule = schedule
        self.observer = observer
        self.random = random
        self.disk = Disk()
        #: Calls of the disk until somebody dies in the middle of one; None for nobody.
        self.dies_in: int | None = None
        #: How the kind of call begins that counts there; "" if all do.
        self.dies_at = ""
        #: Lets the process of a loop die, or, with power, all of them.
        self.kill: Callable[[ProcessLoop], None] = lambda loop: None
        self.files: dict[Path, _Inode] = {}
        #: Names as they are on the disk, and what was done to them since, in order.
        self._forced: dict[Path, _Inode] = {}
        self._pending: list[tuple[Path, _Inode | None]] = []

    def step(self, loop: ProcessLoop, what: str = "") -> None:
        """A process touches the disk. Raises Died."""
        if loop.dead:
            raise Died
        if self.dies_in is not None and what.startswith(self.dies_at):
            self.dies_in -= 1
            if self.dies_in <= 0:
                self.dies_in = None
                self.observer.say(loop.name, "dies in the middle of a call of the disk")
                self.observer.hit("met", "sqlite: died in the middle of a call")
                self.kill(loop)
                raise Died

    def name(self, path: Path, inode: _Inode | None) -> None:
        """Let a name stand for a file, or for nothing."""
        if inode is None:
            self.files.pop(path, None)
        else:
            self.files[path] = inode
        self._pending.append((path, inode))

    def force_names(self) -> None:
        """The names are on the disk."""
        self._forced = dict(self.files)
        self._pending.clear()

    def lose_power(self) -> None:
        """Of the names a beginning of what was done to them is left; of contents what was forced, or a torn piece of the rest."""
        kept = self.random.choice((len(self._pending), self.random.randint(0, len(self._pending))))
        if kept < len(self._pending):
            self.observer.hit("met", "sqlite: unforced name lost")
        for path, inode in self._pending[:kept]:
            if inode is None:
                self._forced.pop(path, None)
            else:
                self._forced[path] = inode
        self._pending.clear()
        self.files = dict(self._forced)
        for path, inode in self.files.items():
            if inode.content != inode.forced and self.random.random() < 0.9:
                self.observer.hit("met", "sqlite: torn file")
                self.observer.say("disk", f"tears {path.name}")
                inode.forced = inode.content[: self.random.randint(0, len(inode.content))]
            inode.content = inode.forced


class SimulatedFiles(Files):
    """The calls of one process."""

    def __init__(self, machine: Machine, loop: ProcessLoop) -> None:
        self._machine = machine
        self._loop = loop
        self._open: dict[int, _Inode] = {}

    def create(self, path: Path, mode: int) -> int:
        machine = self._machine
        machine.step(self._loop)
        inode = machine.files.get(path)
        if inode is None:
            inode = _Inode(b"", b"", self._now_s())
            machine.name(path, inode)
        inode.content, inode.lost = b"", False
        descriptor = len(self._open) + 3
        self._open[descriptor] = inode
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        machine, inode = self._machine, self._open[descriptor]
        machine.step(self._loop)
        if machine.disk.full:
            machine.observer.hit("met", "sqlite: disk full")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = len(data) if machine.random.random() < 0.7 else machine.random.randint(1, len(data))
        inode.content += bytes(data[:written])
        inode.modified_at_s = self._now_s()
        return written

    def fsync(self, descriptor: int) -> None:
        inode = self._open[descriptor]
        try:
            self._force(FORCE)
        except OSError:
            inode.lost = True
            raise
        if not inode.lost:
            inode.forced = inode.content

    def close(self, descriptor: int) -> None:
        self._open[descriptor] = _Inode(b"", b"", 0.0)

    def rename(self, source: Path, target: Path) -> None:
        machine = self._machine
        machine.step(self._loop)
        inode = machine.files[source]
        machine.name(target, inode)
        machine.name(source, None)

    def unlink(self, path: Path) -> None:
        machine = self._machine
        machine.step(self._loop)
        if path in machine.files:
            machine.name(path, None)

    def fsync_folder(self, path: Path) -> None:
        self._force()
        self._machine.force_names()

    def status(self, path: Path) -> os.stat_result:
        if path.suffix == ".db":
            return os.stat_result((0o600, *[0] * 9))
        inode = self._machine.files.get(path)
        if inode is None:
            raise FileNotFoundError(path)
        return os.stat_result((0o600, *[0] * 7, inode.modified_at_s, 0))

    def give(self, descriptor: int, owner: os.stat_result) -> None:
        """Everything belongs to one user."""

    def read(self, path: Path, limit: int) -> bytes | None:
        if self._loop.dead:
            raise Died
        inode = self._machine.files.get(path)
        return None if inode is None else inode.content[:limit]

    def _force(self, what: str = "") -> None:
        machine = self._machine
        machine.step(self._loop, what)
        if machine.disk.fails:
            machine.disk.fails = False
            machine.observer.hit("met", "sqlite: forced write failed")
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _now_s(self) -> float:
        return EPOCH_S + self._machine.schedule.now
