"""What a history proves about its transactions, whatever its model.

Lives here: who wrote what, which unknown transactions did commit, the anomalies that a single read shows, and the edges that
follow from the order within a process. ``lists.py`` and ``registers.py`` add what their model tells of the order of versions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nodoubt.errors import InvariantBroken
from nodoubt.judge.graph import KINDS, PROCESS, WR, Graph
from nodoubt.judge.history import NEVER, Ending, History
from nodoubt.judge.show import show


@dataclass(frozen=True, slots=True)
class Finding:
    """An anomaly that needs no cycle: its name, the transactions that show it, and how, in a sentence."""

    name: str
    transactions: tuple[int, ...]
    words: str


class Evidence(ABC):
    """A history's committed transactions, the graph of what must come before what, and one finding for each kind of anomaly.

    A transaction of unknown outcome counts as committed when a committed one read what it wrote, and as nothing otherwise.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.graph = Graph(history.begin, history.end)
        self.findings: dict[str, Finding] = {}
        self.writers: dict[Hashable, dict[Hashable, int]] = {}
        # Values that their own transaction wrote over.
        self.drafts: set[tuple[Hashable, Hashable]] = set()
        # In the order in which they were found; grows while the reads of those in front are followed.
        self.committed = [number for number, ending in enumerate(history.ending) if ending == Ending.OK]
        self._is_committed = bytearray(ending == Ending.OK for ending in history.ending)
        self._find_writers()
        for number in self.committed:
            self.follow(number)
        self.order_versions()
        self._order_processes()

    @abstractmethod
    def follow(self, reader: int) -> None:
        """Take in what a committed transaction read, and whether it agrees with itself."""

    @abstractmethod
    def order_versions(self) -> None:
        """Add the edges that follow from all reads together."""

    @abstractmethod
    def reasons(self, kind: int, before: int, after: int) -> Iterator[str]:
        """Say, in a sentence each, which versions make an edge of kind ww, wr or rw."""

    def why(self, kind: int, before: int, after: int) -> str:
        """The first of an edge's reasons."""
        for reason in self.reasons(kind, before, after):
            return reason
        raise InvariantBroken(f"nothing says why T{before} comes before T{after} ({KINDS[kind]})")

    def has_committed(self, number: int) -> bool:
        """Whether a transaction is known to have committed."""
        return bool(self._is_committed[number])

    def writer(self, key: Hashable, value: Hashable) -> int | None:
        """The committed transaction that wrote a value."""
        number = self.writers.get(key, {}).get(value)
        return number if number is not None and self._is_committed[number] else None

    def find(self, name: str, transactions: Sequence[int], words: str, *values: Any) -> None:
        """Note an anomaly; only the first of each kind is kept, and its values put into the words."""
        if name not in self.findings:
            self.findings[name] = Finding(name, tuple(transactions), words.format(*map(show, values)))

    def sees(self, reader: int, key: Hashable, value: Hashable) -> None:
        """A committed transaction read a value: whoever wrote it had better commit."""
        try:
            writer = self.writers.get(key, {}).get(value)
        except TypeError:
            place = self.history.begin[reader]
            raise self.history.refuse(place, f"a read of {key!r} shows {value!r}, not a number or a string") from None
        if writer is None:
            self.find("garbage-read", [reader], "T{} read {} in key {}, which nobody wrote", reader, value, key)
        elif self.history.ending[writer] == Ending.FAIL:
            words = "T{} read {} in key {}, which T{} wrote; T{} aborted"
            self.find("G1a", [writer, reader], words, reader, value, key, writer, writer)
        elif not self._is_committed[writer]:
            self._is_committed[writer] = True
            self.committed.append(writer)

    def reads_from(self, reader: int, key: Hashable, value: Hashable) -> None:
        """A committed transaction read the version that a value made, not just a later one."""
        writer = self.writer(key, value)
        if writer is None or writer == reader:
            return
        self.graph.edges[WR][writer].append(reader)
        if (key, value) in self.drafts:
            words = "T{} read {} in key {}, which T{} wrote on its way to another value"
            self.find("G1b", [writer, reader], words, reader, value, key, writer)

    def lose(self, key: Hashable, updaters: Sequence[int]) -> None:
        """Committed transactions read the same version of a key, and then each of them wrote it."""
        if len(updaters) > 1:
            words = "T{} and T{} read the same version of key {}, and then both of them wrote it"
            self.find("lost-update", updaters[:2], words, *updaters[:2], key)

    def _find_writers(self) -> None:
        writers = self.writers
        for number, ops in enumerate(self.history.ops):
            mine: dict[Hashable, Hashable] = {}
            for function, key, value in ops:
                if function == "r":
                    continue
                of_key = writers.setdefault(key, {})
                if value in of_key:
                    raise self.history.refuse(
                        self.history.begin[number],
                        f"{show(value)} is written to key {show(key)} a second time",
                        "each value may be written once to a key: otherwise nobody can tell which one was read",
                    )
                of_key[value] = number
                if key in mine:
                    self.drafts.add((key, mine[key]))
                mine[key] = value

    def _order_processes(self) -> None:
        """A process's transaction comes after those that it saw the end of."""
        last: dict[Hashable, int] = {}
        edges = self.graph.edges[PROCESS]
        for number, process in enumerate(self.history.process):
            if not self._is_committed[number]:
                continue
            if process in last:
                edges[last[process]].append(number)
            if self.history.end[number] != NEVER:
                last[process] = number
