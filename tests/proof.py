"""All means of proof, and one summary: ``python -m tests.proof [--deep]``.

Each part is a command that prints what it found and fails when it found something. The last line that it prints is its figure.
Many wait for servers, or have work for one core only; so two run at a time. In the long run each has the machine for itself.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

TESTS = (sys.executable, "-m", "pytest", "-q", "-n", "2")
#: Tests that wait for servers and time-outs for half of their time.
WAITING_TESTS = (*TESTS[:-1], "4")
NODOUBT = (sys.executable, "-m", "nodoubt")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One means of proof: its name, what it shows, and the command; ``deep`` replaces the command in the long run."""

    name: str
    shows: str
    command: Sequence[str]
    deep: Sequence[str] = ()


PARTS = (
    Part(
        name="enumeration",
        shows="every interleaving of small worlds keeps the invariants and can be settled",
        command=(*NODOUBT, "prove", "enumerate"),
    ),
    Part(
        name="twin in TLA+",
        shows="TLC and the engine reach the same states by the same steps",
        command=(sys.executable, "-m", "tests.prove.twin"),
    ),
    Part(
        name="machine",
        shows="every order of facts, in the tables and in recorded runs",
        command=(*TESTS, "tests/protocol", "tests/prove/test_trace.py"),
    ),
    Part(
        name="mutants",
        shows="each mutant is found within a minute, after as many states or seeds as the page says",
        command=(*TESTS, "tests/prove/test_mutants.py"),
        deep=(sys.executable, "-m", "tests.prove.page", "--check"),
    ),
    Part(
        name="simulation",
        shows="random histories under all faults; what can happen happened",
        command=(*NODOUBT, "sim", "--first", "0", "--runs", "10000", "--require-all"),
        deep=(*NODOUBT, "sim", "--first", "0", "--minutes", "15", "--require-all"),
    ),
    Part(
        name="every call fails",
        shows="scripted transactions survive the failure of each single call and await, and of random pairs",
        command=(*NODOUBT, "sim", "--every-call"),
        deep=(*NODOUBT, "sim", "--every-call", "--branches", "3", "--pairs", "20000"),
    ),
    Part(
        name="simulator",
        shows="one seed is one run, byte for byte; nothing that can happen is left out",
        # Its share of every call fails once is in the part before.
        command=(*TESTS, "tests/sim", "--ignore=tests/sim/test_every_call.py"),
    ),
    Part(
        name="fidelity",
        shows="simulated and real databases answer the same scripts with the same transcripts",
        command=(*WAITING_TESTS, "tests/fidelity"),
    ),
    Part(
        name="adapters",
        shows="every clause of the contract on real servers; every broken adapter is convicted",
        command=(*WAITING_TESTS, "tests/nodes", "-k", "conformance or facts"),
        deep=(*TESTS, "tests/nodes", "tests/journal"),
    ),
    Part(
        name="crash matrix",
        shows="real processes and servers killed, stopped and cut off at every crash point",
        command=(*WAITING_TESTS, "tests/crash"),
        # Every call fails once, for more scripts.
        deep=("env", "PROVE_DEEP=1", *WAITING_TESTS, "tests/crash"),
    ),
    Part(
        name="anomalies",
        shows="what each pair of nodes shows of the list of anomalies, at each of its levels",
        command=(*WAITING_TESTS, "tests/isolation"),
    ),
    Part(
        name="torture",
        shows="every fault at once on real servers, and nothing is torn; plain commits are convicted by its tests",
        command=(*NODOUBT, "torture", "--seconds", "60"),
        deep=(*NODOUBT, "torture", "--minutes", "10"),
    ),
    Part(
        name="history checker",
        shows="agrees with recorded verdicts and with trying all orders",
        command=(*TESTS, "tests/judge"),
    ),
    Part(
        name="bank",
        shows="workers killed while they transfer money: nothing lost, nothing in doubt",
        command=(*NODOUBT, "demo", "--seconds", "20", "--kills", "20"),
        deep=(*NODOUBT, "demo", "--seconds", "300", "--kills", "300"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What became of a part."""

    part: Part
    ok: bool
    figure: str
    seconds: float
    #: Of it and all that it started: the machine may have others to serve.
    cpu_s: float

    def __str__(self) -> str:
        took = f"{self.seconds:6.0f} s  {self.cpu_s:6.0f} s of CPU"
        return f"{'ok' if self.ok else 'FAILED':6}  {self.part.name:16}  {took}  {self.figure}"


def main() -> int:
    """Run the parts; 1 when one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    parser.add_argument("--deep", action="store_true", help="about an hour instead of minutes")
    deep = parser.parse_args().deep
    began = time.monotonic()
    with ThreadPoolExecutor(1 if deep else 2) as lanes:
        results = list(lanes.map(lambda part: _run(part, (deep and part.deep) or part.command), PARTS))
    print("\n== summary", *results, f"{time.monotonic() - began:.0f} s in all", sep="\n")
    return 0 if all(found.ok for found in results) else 1


def _run(part: Part, command: Sequence[str]) -> Found:
    """Run a part and pass on what it prints, each line behind the part's name."""
    began = time.monotonic()
    _say(part, f"== {part.shows}")
    _say(part, f"$ {' '.join(command[1:])}")
    figure = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            _say(part, line.rstrip())
            figure = line.strip() or figure
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    found = Found(
        part=part,
        ok=process.returncode == 0,
        figure=figure,
        seconds=time.monotonic() - began,
        cpu_s=used.ru_utime + used.ru_stime,
    )
    _say(part, str(found))
    return found


def _say(part: Part, line: str) -> None:
    print(f"{part.name:16}  {line}\n", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
