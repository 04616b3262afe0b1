"""How the simulation puts something else in the place of a function of the library, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass


@contextmanager
def swapped(owner: object, name: str, other: object) -> Iterator[None]:
    """Let ``owner.name`` be something else for a while."""
    original = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, original)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A mistake: what it is, and how it is switched on."""

    mistake: str
    switch: Callable[[], AbstractContextManager[None]]


def reworded(dialect: type, name: str, change: Callable[[str], str]) -> AbstractContextManager[None]:
    """A server is told something else."""
    said = getattr(dialect, name)
    return swapped(dialect, name, lambda self, *args, **options: change(said(self, *args, **options)))
