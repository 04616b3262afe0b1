"""What a transaction asks for when it begins, beyond atomic commit."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, TypedDict

from nodoubt.errors import ConfigError
from nodoubt.nodes.contract import Isolation, Key, Node

#: What ``isolation=`` takes: the values of :class:`nodoubt.nodes.contract.Isolation`.
Level = Literal["atomic", "snapshot", "serializable"]


class Wishes(TypedDict, total=False):
    """What a transaction may be asked for by keyword, beyond atomic commit."""

    isolation: Level
    nodes: Collection[str] | None
    reads: Collection[str]
    keys: Collection[str | Key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The level, the nodes that are opened at begin (to write, or only to read), and the keys to lock."""

    isolation: Isolation = Isolation.ATOMIC
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()


#: Each node at its own level, opened when it is asked for.
PLAIN = Request()


def shared(name: str) -> Key:
    """A key that is only read under: others may hold it shared at the same time, nobody exclusively."""
    return Key(name=name, shared=True)


def request(
    find: Callable[[str], Node],
    names: Collection[str],
    *,
    isolation: str = "atomic",
    nodes: Collection[str] | None = None,
    reads: Collection[str] = (),
    keys: Collection[str | Key] = (),
) -> Request:
    """Check what is asked for against the nodes. Raises ConfigError for what cannot be had: nothing is weakened.

    ``names`` are those of all nodes: at ``"snapshot"``, ``nodes`` None means every one that is not in ``reads``.
    """
    level = _level(isolation)
    for wish, value in {"nodes": nodes, "reads": reads, "keys": keys}.items():
        # A text is a collection, too: of its letters.
        if isinstance(value, str):
            raise ConfigError(f"{wish}={value!r} is one name", hint=f"pass a list: {wish}=[{value!r}]")
    if wrong := [key for key in keys if not (key and isinstance(key, str | Key))]:
        raise ConfigError(f"{wrong[0]!r} is no key", hint="a key is a text that is not empty, or nodoubt.shared(text)")
    if keys and level is not Isolation.SERIALIZABLE:
        raise ConfigError("keys= are locked by serializable transactions", hint='pass isolation="serializable"')
    if level is Isolation.ATOMIC:
        if nodes or reads:
            raise ConfigError('nodes= and reads= are for isolation="snapshot" and "serializable"')
        return PLAIN
    reading = tuple(dict.fromkeys(reads))
    if nodes is None:
        nodes = [name for name in names if name not in reading] if level is Isolation.SNAPSHOT else []
    writing = tuple(dict.fromkeys(nodes))
    if both := set(writing) & set(reading):
        raise ConfigError(f"{min(both)!r} is in nodes= and in reads=", hint="a node that is written can be read, too")
    for name in (*writing, *reading):
        check(find(name), level, read_only=name in reading)
    return Request(isolation=level, writes=writing, reads=reading, keys=_in_order(keys))


def seconds(asked: object) -> float:
    """The time that a transaction may take. Raises ConfigError for what is none."""
    if not isinstance(asked, int | float) or not asked > 0:
        raise ConfigError(f"{asked!r} is not a time that a transaction may take", hint="pass seconds, more than 0")
    return asked


def check(node: Node, isolation: Isolation, *, read_only: bool) -> None:
    """Raise ConfigError where a node cannot give what is asked."""
    if why := node.refusal(isolation, read_only=read_only):
        raise ConfigError(f"node {node.name!r} cannot give {isolation.value!r}: {why}")


def _level(isolation: str) -> Isolation:
    try:
        return Isolation(isolation)
    except ValueError:
        known = [level.value for level in Isolation]
        close = difflib.get_close_matches(str(isolation), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
        raise ConfigError(f"no isolation is called {isolation!r}", hint=hint) from None


def _in_order(keys: Collection[str | Key]) -> tuple[Key, ...]:
    """One order for everybody, so that no two wait for each other; who names a key twice gets the stronger lock."""
    strongest: dict[str, Key] = {}
    for key in keys:
        asked = Key(name=key) if isinstance(key, str) else key
        if asked.name not in strongest or not asked.shared:
            strongest[asked.name] = asked
    return tuple(strongest[name] for name in sorted(strongest))
