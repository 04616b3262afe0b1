"""Recordings: files of JSON lines, plain or compressed with gzip.

Lives here: which of the two layouts a file has (a history in each line, or an op in each line), and which line a complaint is
about.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

from nodoubt.errors import ConfigError
from nodoubt.judge.history import HINT, History, pair

_GZIP_MAGIC: Final = b"\x1f\x8b"
_TOLD_EVERY: Final = 50_000
"""Lines between two words of progress."""


def histories(path: Path, progress: Callable[[str], object]) -> Iterator[tuple[str, History]]:
    """The histories of a file, with their names. Raises ConfigError for what is none.

    A line with ``ops`` is a history of its own. Otherwise each line is an op of the only one, behind a header, which is any other
    object; a ``name`` in it names the history.
    """
    lines = _objects(path, progress)
    start = next(lines, None)
    if start is None:
        raise ConfigError(f"{path}: the file is empty", hint=HINT)
    _, first = start
    if "ops" not in first:
        yield _by_op(path, first, lines)
        return
    for number, line in chain([start], lines):
        ops = line.get("ops")
        if not isinstance(ops, list):
            raise ConfigError(
                f"{path}: line {number}: its ops are no list", hint="either all lines are histories, or none is"
            )
        yield str(line.get("name", f"line {number}")), pair(ops, f"{path}: line {number}, ")


def _by_op(path: Path, first: dict[str, Any], lines: Iterator[tuple[int, dict[str, Any]]]) -> tuple[str, History]:
    is_header = "type" not in first
    ops = (line for _, line in lines)
    offset = 2 if is_header else 1
    name = str(first.get("name", path.name)) if is_header else path.name
    events = ops if is_header else chain([first], ops)
    return name, pair(events, f"{path}: ", lambda position: f"line {position + offset}")


def _objects(path: Path, progress: Callable[[str], object]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line's number and object."""
    number = 0
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            for number, line in enumerate(gzip.GzipFile(fileobj=raw) if packed else raw, start=1):
                if number % _TOLD_EVERY == 0:
                    progress(f"{path}: {number:,} lines read")
                yield number, _object(line)
    except (OSError, EOFError, zlib.error) as error:
        behind = f" behind line {number}" if number else ""
        raise ConfigError(f"{path}: cannot be read{behind}: {error}", hint=HINT) from error
    except json.JSONDecodeError as error:
        message = f"{path}: line {number}: not a JSON object: {error.msg} (column {error.colno})"
        raise ConfigError(message, hint=HINT) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: line {number}: not a JSON object: {error}", hint=HINT) from error


def _object(line: bytes) -> dict[str, Any]:
    """Raises ValueError for anything but a JSON object in UTF-8, and RecursionError for one that is too deep."""
    value = json.loads(line.decode("utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}")
    return value
