"""rw-register: what is certain although a read shows one value and none of those before it.

Rules: who reads a value comes after its writer. A transaction that reads a value and then writes that key puts its version behind
the one that it read: the other way round, the two edges would be a G1c. Whoever else read that value comes before it. Null is the
first version of each key: whoever reads it comes before all that write the key. Nothing orders two writes that no transaction
joins, so there are no ww edges, and nothing here speaks against read-uncommitted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence

from nodoubt.judge.evidence import Evidence
from nodoubt.judge.graph import WR
from nodoubt.judge.history import History
from nodoubt.judge.show import show

_Version = tuple[Hashable, Hashable]
"""A key and its value; null at first."""


class Registers(Evidence):
    """The evidence of an rw-register history."""

    def __init__(self, history: History) -> None:
        self._readers: defaultdict[_Version, list[int]] = defaultdict(list)
        # Who read a version and then wrote the key.
        self._updaters: defaultdict[_Version, list[int]] = defaultdict(list)
        super().__init__(history)

    def follow(self, reader: int) -> None:
        """See Evidence."""
        known: dict[Hashable, Hashable] = {}  # what the transaction must read next
        first: dict[Hashable, Hashable] = {}  # what it read before it wrote
        for function, key, value in self.history.ops[reader]:
            if function == "r":
                own = self.writers.get(key, {}).get(value) == reader
                if known.get(key, value) != value or (own and key not in known):
                    words = "T{} read key {} = {}, against what it had read or written there itself"
                    self.find("internal", [reader], words, reader, key, value)
                if value is not None:
                    self.sees(reader, key, value)
                    self.reads_from(reader, key, value)
                if key not in known and not own:
                    first[key] = value
                self._readers[key, value].append(reader)
            elif key in first:
                self._updaters[key, first.pop(key)].append(reader)
            known[key] = value

    def order_versions(self) -> None:
        """See Evidence."""
        for version, readers in self._readers.items():
            updaters = self._updaters.get(version, [])
            self.lose(version[0], updaters)
            self.graph.overwrite(readers, self._overwriters(version))

    def _overwriters(self, version: _Version) -> Sequence[int]:
        """The committed transactions whose version is certainly behind this one."""
        key, value = version
        if value is not None:
            return self._updaters.get(version, ())
        return list(dict.fromkeys(filter(self.has_committed, self.writers.get(key, {}).values())))

    def reasons(self, kind: int, before: int, after: int) -> Iterator[str]:
        """See Evidence."""
        history = self.history
        for function, key, value in history.ops[before if kind == WR else after]:
            if function == "r":
                continue
            for other, other_key, seen in history.ops[after if kind == WR else before]:
                if other != "r" or other_key != key:
                    continue
                if kind == WR and seen == value:
                    yield f"T{after} read key {show(key)} = {show(value)}, which T{before} wrote"
                if kind != WR and after in self._overwriters((key, seen)):
                    yield f"T{before} read key {show(key)} = {show(seen)}, and T{after} wrote {show(value)} over it"
