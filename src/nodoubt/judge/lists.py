"""list-append: every read shows the whole past of its key, so the order of versions is known.

Rules: the longest read of a key is its order of versions, and all other reads are beginnings of it. Where two reads contradict
each other, only what all of them agree on orders anything. A committed write that no read shows comes after all that are shown:
had it come before, they would show it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

from nodoubt.judge.evidence import Evidence
from nodoubt.judge.graph import RW, WR, WW
from nodoubt.judge.history import History
from nodoubt.judge.show import show


def lacking(since: int, place: int) -> range:
    """The versions, from ``since`` on, that lack the element at ``place``: version n has the elements before place n."""
    return range(since, place + 1)


def common(one: list[Any], other: list[Any]) -> int:
    """How many elements two lists have in common at their beginnings."""
    for place, (mine, yours) in enumerate(zip(one, other, strict=False)):
        if mine != yours:
            return place
    return min(len(one), len(other))


@dataclass(slots=True)
class Versions:
    """The versions of one key. Version n has n elements."""

    order: list[Any] = field(default_factory=list)
    place: dict[Hashable, int] = field(default_factory=dict)
    agreed: int | None = None
    """The reads agree on so many elements; None when they agree on all."""
    readers: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Who read each version."""
    updaters: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Who read each version, and then appended to it."""

    def disagree(self, agreed: int) -> None:
        """Note that reads agree on no more than the first ``agreed`` elements."""
        self.agreed = agreed if self.agreed is None else min(agreed, self.agreed)

    def version(self, seen: list[Any]) -> int | None:
        """The number of the version that was read, if it has a place in the order."""
        length = len(seen)
        fits = self.agreed is None or length <= self.agreed
        return length if fits and self.order[:length] == seen else None

    def since(self, value: Hashable) -> int | None:
        """The first version that has a value, if that is known; one that nobody has seen is in none of the versions read."""
        place = self.place.get(value, len(self.order))
        return place + 1 if self.agreed is None or place < self.agreed else None


class ListAppend(Evidence):
    """The evidence of a list-append history."""

    def __init__(self, history: History) -> None:
        self._versions: defaultdict[Hashable, Versions] = defaultdict(Versions)
        super().__init__(history)

    def follow(self, reader: int) -> None:
        """See Evidence."""
        known: dict[Hashable, list[Any]] = {}  # what the transaction must read next
        added: dict[Hashable, list[Any]] = {}  # what its first read of a key must end with
        first: dict[Hashable, int] = {}  # the version that it read of a key before it appended
        for function, key, value in self.history.ops[reader]:
            if function == "r":
                seen = list(value)
                own = added.get(key, [])
                if seen != known[key] if key in known else seen[max(0, len(seen) - len(own)) :] != own:
                    words = "T{} read key {} = {}, against what it had read or appended there itself"
                    self.find("internal", [reader], words, reader, key, seen)
                if self._take(reader, key, seen) and key not in known and key not in added:
                    first[key] = len(seen)
                known[key] = seen
            elif key in known:
                known[key] = [*known[key], value]
                if key in first:
                    self._update(reader, key, value, first[key])
            else:
                added.setdefault(key, []).append(value)

    def _update(self, updater: int, key: Hashable, value: Hashable, version: int) -> None:
        """A transaction read a version and appended to it."""
        versions = self._versions[key]
        if versions.place.get(value, version) < version:
            self.find("internal", [updater], "T{} read {} in key {} before it appended it", updater, value, key)
        updaters = versions.updaters[version]
        if not updaters or updaters[-1] != updater:
            updaters.append(updater)

    def _take(self, reader: int, key: Hashable, seen: list[Any]) -> bool:
        """Take in a read; returns whether it agrees with those before it."""
        versions = self._versions[key]
        order = versions.order
        known = len(order)
        agrees = order[: len(seen)] == seen if len(seen) <= known else seen[:known] == order
        if agrees:
            for place in range(known, len(seen)):
                value = seen[place]
                self.sees(reader, key, value)
                if value in versions.place:
                    self._repeat(reader, key, value)
                    versions.disagree(place)
                versions.place.setdefault(value, place)
                order.append(value)
            versions.readers[len(seen)].append(reader)
        else:
            self._contradict(reader, key, seen)
        if seen:
            self.reads_from(reader, key, seen[-1])
        return agrees

    def _contradict(self, reader: int, key: Hashable, seen: list[Any]) -> None:
        """Take in a read that contradicts an earlier one."""
        versions = self._versions[key]
        agreed = common(versions.order, seen)
        versions.disagree(agreed)
        for value in seen[agreed:]:
            self.sees(reader, key, value)
        if len(set(seen)) < len(seen):
            self._repeat(reader, key, next(value for place, value in enumerate(seen) if value in seen[:place]))
        words = "T{} read key {} = {}, others {}: none is a beginning of the other"
        self.find("incompatible-order", [reader], words, reader, key, seen, versions.order)

    def _repeat(self, reader: int, key: Hashable, value: Hashable) -> None:
        words = "T{} read {} twice in key {}, and it was appended only once"
        self.find("duplicate-elements", [reader], words, reader, value, key)

    def order_versions(self) -> None:
        """See Evidence."""
        for key, versions in self._versions.items():
            self._order(key, versions)
            for updaters in versions.updaters.values():
                self.lose(key, updaters)

    def _order(self, key: Hashable, versions: Versions) -> None:
        ww = self.graph.edges[WW]
        previous: int | None = None
        aborted: int | None = None
        since = 0
        for place, value in enumerate(versions.order[: versions.agreed]):
            writer = self.writer(key, value)
            if writer is None:
                aborted = self.writers.get(key, {}).get(value, aborted)
                continue
            if aborted is not None:
                words = "T{} aborted, and what it appended to key {} is there, before what T{} appended"
                self.find("dirty-update", [aborted, writer], words, aborted, key, writer)
            if previous is not None and previous != writer:
                ww[previous].append(writer)
            self.graph.overwrite(self._readers(versions, since, place), [writer])
            previous, since = writer, place + 1
        if versions.agreed is None:
            unseen = self._unseen(key, versions)
            if previous is not None:
                ww[previous] += [writer for writer in unseen if writer != previous]
            self.graph.overwrite(self._readers(versions, since, len(versions.order)), unseen)

    def _unseen(self, key: Hashable, versions: Versions) -> list[int]:
        """The committed writers of what no read shows."""
        writers = self.writers.get(key, {})
        if len(writers) <= len(versions.order):
            return []
        unseen = (writer for value, writer in writers.items() if value not in versions.place)
        return list(dict.fromkeys(writer for writer in unseen if self.has_committed(writer)))

    @staticmethod
    def _readers(versions: Versions, since: int, place: int) -> list[int]:
        """Who read one of the versions that lack the element at a place, and nothing that lacks an earlier one."""
        return [reader for version in lacking(since, place) for reader in versions.readers.get(version, ())]

    def reasons(self, kind: int, before: int, after: int) -> Iterator[str]:
        """See Evidence."""
        for function, key, value in self.history.ops[after]:
            versions = self._versions[key]
            if kind == WR and function == "r" and value and self.writer(key, value[-1]) == before:
                yield f"T{after} read key {show(key)} = {show(value)}, and T{before} appended {show(value[-1])}"
            if kind == WR or function == "r" or (there := versions.since(value)) is None:
                continue
            for function_before, key_before, value_before in self.history.ops[before]:
                if key_before != key:
                    continue
                if kind == WW and function_before != "r" and (versions.since(value_before) or there) < there:
                    yield f"T{before} appended {show(value_before)} to key {show(key)} before T{after} appended {show(value)}"
                if kind == RW and function_before == "r":
                    version = versions.version(list(value_before))
                    if version is not None and version < there:
                        seen = show(list(value_before))
                        yield f"T{before} read key {show(key)} = {seen}, without {show(value)}, which T{after} appended"
