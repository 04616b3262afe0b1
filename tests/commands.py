"""The commands as a user starts them: processes of their own."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ended:
    """A run that is over."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The closing object: standard output holds nothing else."""
        closing: dict[str, Any] = json.loads(self.out)
        return closing


@asynccontextmanager
async def started(*words: str) -> AsyncIterator[Process]:
    """``nodoubt`` with these words; killed if it outlives the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nodoubt", *words), stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def progress(process: Process, text: str) -> None:
    """Wait until a line of standard error has the text."""
    assert process.stderr is not None
    while text not in (line := (await process.stderr.readline()).decode()):
        assert line, f"it ended before it said {text!r}"


async def ended(process: Process) -> Ended:
    """Wait for its end."""
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())
