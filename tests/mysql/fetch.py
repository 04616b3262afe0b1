"""Fetch the newest MySQL that Debian has into a folder: ``python -m tests.mysql.fetch FOLDER``. Nothing is installed.

Debian has MySQL in its unstable suite alone. Its packages are unpacked with all that they need, the C library included, and
``FOLDER/bin`` has programs that run on these. The mirror is the machine's own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SUITE = "sid"
PACKAGES = ("mysql-server-core", "mysql-client-core")
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
PROGRAMS = {"mysqld": "usr/sbin/mysqld", "mysql": "usr/bin/mysql"}
WRAPPER = """#!/bin/sh
# Made by tests/mysql/fetch.py.
exec '{lib}/ld-linux-x86-64.so.2' --library-path '{lib}' '{program}' "$@"
"""


def main() -> None:
    """Fetch, unpack, and write the programs."""
    folder = Path(sys.argv[1]).resolve()
    apt, root, programs = folder / "apt", folder / "root", folder / "bin"
    for made in (apt / "lists/partial", apt / "cache/archives/partial", root, programs):
        made.mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb [signed-by={KEYS}] {_mirror()} {SUITE} main\n")
    options = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": apt / "lists",
        # As if nothing were installed, so that what the machine has already comes, too.
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "true",
    }
    apt_get = ["apt-get", "-qq", *[f"-o{name}={value}" for name, value in options.items()]]
    _run([*apt_get, "update"])
    _run([*apt_get, "--yes", "--download-only", "install", *PACKAGES])
    for package in sorted((apt / "cache/archives").glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(package), str(root)])
    (lib,) = root.glob("usr/lib/*-linux-gnu")
    for name, path in PROGRAMS.items():
        (programs / name).write_text(WRAPPER.format(lib=lib, program=root / path))
        (programs / name).chmod(0o755)


def _mirror() -> str:
    """Where this machine takes its packages from."""
    lines = _run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"]).split("\n")
    found = sorted({uri for uri, _, codename in (line.partition(" ") for line in lines) if "-" not in codename and uri})
    if not found:
        sys.exit("apt knows no mirror of Debian: run apt-get update first")
    return found[0]


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
