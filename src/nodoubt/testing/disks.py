"""Disks that fail a server: one that is full, and one whose forced writes fail. Linux only, and only for root.

A small disk is mounted where nobody but this process and its children sees it, so none is left behind even by a kill.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nodoubt.testing.processes import await_fact
from nodoubt.testing.servers import Server

DISK_BYTES: Final = 400 * 2**20
"""Enough for the files of a new server and some work."""

_CLONE_NEWNS: Final = 0x20000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 0x40000
_MNT_DETACH: Final = 2
_SYNCS: Final = "fsync,fdatasync"
_INJECTED: Final = "(INJECTED)"


class SmallDisk:
    """A tmpfs that can be filled; of this process and its children alone."""

    def __init__(self, bytes_max: int = DISK_BYTES) -> None:
        """Mount it. Raises OSError where that is not allowed."""
        self.folder = Path(tempfile.mkdtemp(prefix="nodoubt-disk-", dir="/tmp"))
        self._ballast = self.folder / "ballast"
        options = f"size={bytes_max},mode=755".encode()
        try:
            _call("unshare", _CLONE_NEWNS)
            _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
            _call("mount", b"none", os.fsencode(self.folder), b"tmpfs", 0, options)
        except OSError:
            self.folder.rmdir()
            raise

    def fill(self) -> None:
        """Leave no byte free."""
        with self._ballast.open("wb") as ballast:
            room = os.statvfs(self.folder)
            if free := room.f_bavail * room.f_bsize:
                with contextlib.suppress(OSError):  # somebody else was faster to the last byte
                    os.posix_fallocate(ballast.fileno(), 0, free)

    def clear(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount; whatever is still open on it lives until it is closed."""
        _call("umount2", os.fsencode(self.folder), _MNT_DETACH)
        self.folder.rmdir()


def _call(function: str, *arguments: int | bytes | None) -> None:
    """Call a function of the C library. Raises OSError when it fails."""
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def why_no_small_disk() -> str:
    """Why no small disk can be had here; empty where it can."""
    try:
        SmallDisk(2**20).close()
    except OSError as error:
        return f"a small disk cannot be mounted: {error.strerror}"
    return ""


def why_no_failing_sync() -> str:
    """Why forced writes cannot be made to fail here; empty where they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    return "" if os.geteuid() == 0 else "only root may trace a server's processes"


@contextlib.contextmanager
def failing_sync(server: Server) -> Iterator[Path]:
    """Let every fsync and fdatasync of a server fail within the block; gives the file that :func:`failed_syncs` reads.

    What fails is the call: nothing is written to disk by it, and the server is told EIO.
    """
    handle, name = tempfile.mkstemp(prefix="nodoubt-strace-")
    os.close(handle)
    log = Path(name)
    pids = server.pids
    tracing = ["-e", f"trace={_SYNCS}", "-e", f"inject={_SYNCS}:error=EIO"]
    tracer = subprocess.Popen(
        ["strace", "-f", "-q", *tracing, "-o", name, *(f"--attach={pid}" for pid in pids)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await_fact(lambda: tracer.poll() is not None or all(_tracer(pid) in (tracer.pid, None) for pid in pids))
        yield log
    finally:
        tracer.terminate()
        await_fact(lambda: tracer.poll() is not None)
        log.unlink()


def _tracer(pid: int) -> int | None:
    """Who traces a process: a process id, 0 for nobody, None where the process is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("TracerPid:"):
                return int(line.split()[1])
    return None


def failed_syncs(log: Path) -> int:
    """How many forced writes have failed."""
    return log.read_text(errors="replace").count(_INJECTED)


def wait_for_failed_sync(log: Path, timeout_s: float) -> int:
    """Wait until one has failed, or for so long; how many have."""
    deadline = time.monotonic() + timeout_s
    while not (count := failed_syncs(log)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return count
