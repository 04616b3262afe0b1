"""Programs, accounts, ports and processes of this machine, as `servers` needs them; and the keeper.

The keeper is this file run as a program: a small process between us and a server that waits for the end of either. When
we are killed, it kills the server's whole family and removes its folder. The kernel's PR_SET_PDEATHSIG would not do: it
fires when the starting thread ends, it leaves the stopped children of a paused server behind, and it removes no folder.
Linux only, the standard library alone, nothing of nodoubt.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import pwd
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Final, cast

DEADLINE_S: Final = 60.0
"""How long a server may take to start, to freeze or to be gone: far above what a loaded machine needs."""

POLL_S: Final = 0.01
"""How often a fact is looked up that the kernel cannot wake us for."""

EXTRA_FOLDERS: Final = ("/usr/lib/postgresql/*/bin", "/usr/local/sbin", "/usr/sbin")
"""Where server programs are besides PATH; a later version of PostgreSQL goes before an earlier one."""

SOCKET_FOLDER_BYTES_MAX: Final = 60
"""A socket's path must fit into about 100 bytes, and its file name needs some of them."""

PORTS: Final = range(12_000, 32_000)
"""Below the range that the kernel gives to outgoing connections: one of those could take a port while we restart."""

_ports_taken: Final[set[int]] = set()
"""Ports of servers that are not stopped yet: one that is down between `kill` and `restart` keeps its port."""


class ServerMissing(RuntimeError):
    """A server's program is not installed; the message names the Debian package that brings it."""


def find(program: str, *, package: str) -> Path:
    """The program's real path, so that its siblings are found beside it."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    for pattern in EXTRA_FOLDERS:
        folders += sorted(glob.glob(pattern), key=_version, reverse=True)  # noqa: PTH207 (the patterns are absolute)
    found = shutil.which(program, path=os.pathsep.join(folders))
    if found is None:
        raise ServerMissing(f"{program} is not installed; on Debian: apt-get install {package}")
    return Path(found).resolve()


def _version(folder: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"[0-9]+", folder)]


def account(wanted: str) -> pwd.struct_passwd:
    """Whom the server runs as: ourselves, but as root the wanted account or `nobody`: servers refuse to be root."""
    if os.geteuid():
        return pwd.getpwuid(os.geteuid())
    try:
        return pwd.getpwnam(wanted)
    except KeyError:
        return pwd.getpwnam("nobody")


def run(command: Sequence[str | Path], folder: Path, who: pwd.struct_passwd) -> str:
    """Run a program as that account to its end and return what it printed.

    Raises:
        subprocess.CalledProcessError: it failed; `stderr` tells why.
        subprocess.TimeoutExpired: it was ended after DEADLINE_S.
    """
    done = subprocess.run(
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=DEADLINE_S,
        cwd=folder,
        env=_environment(),
        **_identity(who),
    )
    return str(done.stdout)


def short_folder(within: Path | None = None) -> Path:
    """A new folder with a path short enough for the sockets in it."""
    folder = tempfile.mkdtemp(prefix="nodoubt-", dir=within)
    if len(os.fsencode(folder)) > SOCKET_FOLDER_BYTES_MAX:
        Path(folder).rmdir()
        folder = tempfile.mkdtemp(prefix="nodoubt-", dir="/tmp")
    return Path(folder)


def free_port() -> int:
    """Take a port that nobody listens on; `release_port` gives it back.

    Drawn from the system's randomness: a test's seed must not send parallel runs to the same ports.
    """
    for _ in range(1000):
        port = secrets.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _ports_taken:
            _ports_taken.add(port)
            return port
    raise OSError(f"no free port in {PORTS}")


def release_port(port: int) -> None:
    """Give a port back; once is enough, more does no harm."""
    _ports_taken.discard(port)


def await_fact(fact: Callable[[], bool]) -> None:
    """Look until `fact` holds; TimeoutError after DEADLINE_S."""
    deadline = time.monotonic() + DEADLINE_S
    while not fact():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited for {DEADLINE_S:.0f} s")
        time.sleep(POLL_S)


class Family:
    """A server's main process and all its descendants, started on construction under a keeper of its own.

    Args:
        command: the main process's program and arguments.
        folder: its working folder, which the keeper removes when this process is killed.
        who: the account it runs as.
        log: the file that its output is appended to.

    Raises:
        OSError: the program could not be executed; the log tells why.
    """

    def __init__(self, command: Sequence[str], folder: Path, who: pwd.struct_passwd, log: Path) -> None:
        keeper = [sys.executable, "-I", __file__, str(os.getpid()), str(folder), who.pw_name]
        with log.open("ab") as output:
            self._keeper = subprocess.Popen(
                [*keeper, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                env=_environment(),
                start_new_session=True,  # a Ctrl-C is for us; the server ends when we say so
            )
        with cast(IO[bytes], self._keeper.stdout) as answer:
            pid = answer.read()
        if not pid:
            self._keeper.wait()
            raise OSError(f"could not execute {command[0]}; see {log}")
        self.pid = int(pid)

    @property
    def running(self) -> bool:
        """Whether any process of the family is alive, be it frozen or not: the keeper is the last to go."""
        return self._keeper.poll() is None

    @property
    def pids(self) -> list[int]:
        """The ids of the main process and of all its living descendants, parents before their children."""
        return [self.pid, *_descendants(self.pid)]

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that the family has used, with those of its ended processes, in steps of the kernel's tick."""
        ticks = sum(_ticks(pid, ended_children=pid == self.pid) for pid in self.pids)
        return ticks / os.sysconf("SC_CLK_TCK")

    def freeze(self) -> None:
        """Stop every process (SIGSTOP) and wait until each stands still; TimeoutError after DEADLINE_S.

        The main process goes first: once frozen it forks no further child that the list would miss.
        """
        _signal_all([self.pid], signal.SIGSTOP)
        await_fact(lambda: frozen([self.pid]))
        children = _descendants(self.pid)
        _signal_all(children, signal.SIGSTOP)
        await_fact(lambda: frozen(children))

    def thaw(self) -> None:
        """Let every process go on; the main one last, so that it finds its children awake."""
        if self.running:
            _signal_all([*_descendants(self.pid), self.pid], signal.SIGCONT)

    def kill(self) -> None:
        """End every process by SIGKILL and wait until all are gone; subprocess.TimeoutExpired after DEADLINE_S."""
        if not self.running:
            return
        self.freeze()
        _signal_all([self.pid, *_descendants(self.pid)], signal.SIGKILL)
        self._keeper.wait(DEADLINE_S)

    def end(self, which: signal.Signals) -> None:
        """Ask the main process to end by this signal and wait until all are gone; kill them when they are not."""
        if not self.running:
            return
        self.thaw()
        _signal_all([self.pid], which)
        try:
            self._keeper.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()


def _identity(who: pwd.struct_passwd) -> dict[str, Any]:
    """The arguments that make `subprocess` run a program as that account; only root may change it."""
    return {} if os.geteuid() else {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}


def _environment() -> dict[str, str]:
    """Nothing of the caller's own database settings (PGHOST, MYSQL_HOME, …) must reach our servers and clients."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _signal_all(pids: Iterable[int], which: signal.Signals) -> None:
    """Send a signal to each of these processes that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, which)


def _stat(path: Path) -> tuple[str, int] | None:
    """A process's or thread's state letter and its parent's id, out of /proc; None when it is gone."""
    try:
        fields = path.read_text().rpartition(")")[2].split()  # the name before may hold anything
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[1])


def _ticks(pid: int, *, ended_children: bool) -> int:
    """The clock ticks that a process ran, with or without those of children that it waited for; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    # proc(5): utime, stime, cutime and cstime are fields 14 to 17; the state, field 3, stands first here.
    return sum(int(field) for field in fields[11 : 15 if ended_children else 13])


def frozen(pids: Iterable[int]) -> bool:
    """Whether every thread of these processes is stopped or gone."""
    threads = [_stat(path / "stat") for pid in pids for path in Path(f"/proc/{pid}/task").glob("*")]
    return all(thread is None or thread[0] in "TZX" for thread in threads)


def _descendants(ancestor: int) -> list[int]:
    """The ids of all living processes below one, parents before their children."""
    children: dict[int, list[int]] = {}
    # A pattern that goes on behind the number would look whether the file is there, and fail for who ends just then.
    for path in Path("/proc").glob("[0-9]*"):
        if found := _stat(path / "stat"):
            children.setdefault(found[1], []).append(int(path.name))
    family = [ancestor]
    for pid in family:
        family += children.get(pid, [])
    return family[1:]


def _keep(parent: int, folder: Path, account: str, command: Sequence[str]) -> None:
    """Run the server; end with all of it when either its main process or our parent ends."""
    pr_set_child_subreaper = 36  # prctl(2): a dead server's children become ours, so that we can await them
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)
    parent_end = os.pidfd_open(parent)
    if os.getppid() != parent:
        return  # the parent ended before we watched it
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=sys.stderr, cwd=folder, **_identity(pwd.getpwnam(account))
    )
    os.write(sys.stdout.fileno(), str(server.pid).encode())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # closes the pipe: the parent reads to its end
    ends, _, _ = select.select([parent_end, os.pidfd_open(server.pid)], [], [])
    while family := _descendants(os.getpid()):
        _signal_all(family, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.wait()
    if parent_end in ends:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _keep(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
