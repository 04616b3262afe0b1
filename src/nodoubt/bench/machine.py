"""What the figures were measured on."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Final

PACKAGES: Final = ("asyncpg", "psycopg", "aiomysql", "sqlalchemy", "uvloop")

FORCED_WRITES: Final = 50
"""Enough for a median; a slow disk takes half a second for them."""


def describe(loop: str) -> dict[str, str]:
    """The machine, the programs and the loop, as lines of a table."""
    return {
        "cpu": f"{os.cpu_count()} x {_first('/proc/cpuinfo', 'model name') or platform.machine()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "forced write": f"{forced_write_us():,.0f} us in {tempfile.gettempdir()}",
        "Python": platform.python_version(),
        "loop": loop,
        "packages": ", ".join(filter(None, map(_version, PACKAGES))),
        "load": f"{os.getloadavg()[0]:.1f} in the minute before",
    }


def forced_write_us() -> float:
    """The median microseconds of writing a page and forcing it to disk, where our own servers keep their data."""
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(FORCED_WRITES):
            began = time.perf_counter()
            os.pwrite(file.fileno(), b"\0" * 8192, 0)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2] * 1e6


def _first(path: str, key: str) -> str:
    """The value of the first line ``key : value`` of a file."""
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return ""
