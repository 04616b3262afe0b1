"""How the simulation puts something else in the place of a function of the library, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def swapped(owner: object, name: str, other: object) -> Iterator[None]:
    """Let ``owner.name`` be something else for a while."""
    original = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, original)
