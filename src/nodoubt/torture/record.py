"""What the workers saw: every op in the order of time, and what each transaction was told."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodoubt.torture.jobs import node_of

FINAL = "final"
"""The process that reads every list at the end."""


@dataclass(slots=True, kw_only=True)
class Done:
    """One transaction, as its client knows it."""

    gid: str
    work: str
    #: ``ok``, ``fail`` or ``info``: nobody knows, since the client was killed or was told so.
    ending: str = "info"
    #: The ops on lists; None for other work.
    asked: Any = None


class Record:
    """All ops of a run."""

    def __init__(self) -> None:
        self.done: dict[str, Done] = {}
        #: Why transactions failed, by error.
        self.reasons: Counter[str] = Counter()
        #: Broken invariants, and branches that somebody else finished: none is ever fine.
        self.broken: list[str] = []
        #: The moments of commits, in nanoseconds of the machine's clock.
        self.commits_ns: list[int] = []
        self._ops: list[dict[str, Any]] = []
        self._open: dict[str, Done] = {}

    def note(self, op: Mapping[str, Any]) -> None:
        """Take an op from a worker."""
        process = op["process"]
        if op["type"] == "invoke":
            done = self._open[process] = self.done[op["gid"]] = Done(gid=op["gid"], work=op["work"], asked=op["value"])
        else:
            done = self._open.pop(process)
            done.ending = op["type"]
            if op["why"]:
                self.reasons[op["why"]] += 1
            if done.ending == "ok":
                self.commits_ns.append(op["time"])
        self._keep(done, {key: op[key] for key in ("type", "process", "value", "time")})

    def give_up(self, worker: int, time_ns: int) -> None:
        """A worker was killed: nobody knows what became of its open transactions."""
        for process in [process for process in self._open if process.startswith(f"{worker}.")]:
            op = {"type": "info", "process": process, "value": None, "time": time_ns}
            self._keep(self._open.pop(process), op)

    def _keep(self, done: Done, op: dict[str, Any]) -> None:
        """Only the lists have a history; the other work is judged by what it left."""
        if done.asked is not None:
            self._ops.append(op | {"gid": done.gid, "work": done.work})

    def count(self, ending: str) -> int:
        """How many transactions ended so."""
        return sum(done.ending == ending for done in self.done.values())

    def history(self, final: Mapping[str, list[int]]) -> list[dict[str, Any]]:
        """The history of the lists, with a last read of every key."""
        ops = sorted(self._ops, key=lambda op: (op["time"], op["type"] != "invoke"))
        after = ops[-1]["time"] + 1 if ops else 0
        # A list whose first append aborted is not there, and so read as empty.
        keys = {key for op in ops for _, key, _ in op["value"] or ()} | set(final)
        value = [["r", key, final.get(key, [])] for key in sorted(keys)]
        blank = [["r", key, None] for _, key, _ in value]
        last = {"process": FINAL, "gid": FINAL, "work": FINAL}
        ops.append({"type": "invoke", "value": blank, "time": after, **last})
        ops.append({"type": "ok", "value": value, "time": after + 1, **last})
        return ops


def without_views(history: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The transactions alone, and the last read."""
    return (op for op in history if op["work"] != "view")


def without_reads(history: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The appends, the views and the last read: transactions without what they read, those that append nothing not at all."""
    left_out = set()
    for op in history:
        if op["work"] != "lists":
            yield op
            continue
        value = op["value"] and [part for part in op["value"] if part[0] == "append"]
        if op["type"] == "invoke" and not value:
            left_out.add(op["process"])
        elif op["process"] in left_out:
            left_out.remove(op["process"])
        else:
            yield op | {"value": value}


def without_lost(
    history: list[dict[str, Any]], final: Mapping[str, list[int]], deaths_ns: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    """The history without what was read of a server that died afterwards, and died with it; ``as_read`` is what had been read.

    ``deaths_ns``: the nodes that show a commit before it is on disk, and when each was up again after its last death. Their logs
    are written in order: what a death takes is the end of a list, and whoever wrote there, too, and was told to be committed did
    not see it. All else that was read and is nowhere at the end is left to the judge.
    """
    began: dict[str, float] = {}
    for op in history:
        instead = {}
        if op["type"] == "invoke":
            began[op["process"]] = op["time"]
        elif op["type"] == "ok" and op["work"] == "lists":
            died = {node for node, time_ns in deaths_ns.items() if began[op["process"]] < time_ns}
            died -= {node_of(key) for function, key, _ in op["value"] if function == "append"}
            value = [
                [function, key, _kept(seen, final.get(key, [])) if node_of(key) in died else seen]
                for function, key, seen in op["value"]
            ]
            if value != op["value"]:
                instead = {"value": value, "as_read": op["value"]}
        yield op | instead


def _kept(seen: list[int], final: list[int]) -> list[int]:
    """What was seen, up to the last element that stayed."""
    return seen[: max((length for length, element in enumerate(seen, start=1) if element in final), default=0)]


def write(history: list[dict[str, Any]], path: Path, name: str) -> None:
    """Write a history in the format of ``nodoubt judge``, compressed."""
    with gzip.open(path, "wt", encoding="utf-8") as file:
        print(json.dumps({"name": name}), file=file)
        for op in history:
            print(json.dumps(op), file=file)
