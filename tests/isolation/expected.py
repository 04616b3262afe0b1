"""What each script is expected to come to: ``expected.toml``, recorded on real servers and read by people.

``python -m tests.isolation.expected`` records it again; what changed then is to be understood before it is committed.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

from nodoubt.testing.servers import MariaDBServer, PostgreSQLServer
from tests.isolation.grounds import GROUNDS
from tests.isolation.promises import breach
from tests.isolation.runner import runs
from tests.isolation.verdict import Verdict, verdict

FILE = Path(__file__).with_name("expected.toml")
#: Kinds of nodes -> levels -> script -> verdict.
Table = Mapping[str, Mapping[str, Mapping[str, Verdict]]]


def load() -> Table:
    """The table as it was recorded."""
    return {
        title: {level: {script: Verdict(word) for script, word in words.items()} for level, words in by_level.items()}
        for title, by_level in tomllib.loads(FILE.read_text("utf-8")).items()
    }


def text(table: Table) -> str:
    """The file of a table."""
    return "\n".join(
        f'["{title}"."{level}"]\n' + "".join(f'{script} = "{word}"\n' for script, word in words.items())
        for title, by_level in table.items()
        for level, words in by_level.items()
    )


async def _record() -> Table:
    numbers = itertools.count()
    with (
        PostgreSQLServer.start() as one,
        PostgreSQLServer.start() as two,
        MariaDBServer.start() as three,
        tempfile.TemporaryDirectory() as folder,
    ):
        servers = {"postgresql": one, "postgresql2": two, "mariadb": three}

        def database(where: str) -> str:
            name = f"t_{next(numbers)}"
            return f"sqlite:///{folder}/{name}.db" if where == "sqlite" else servers[where].create_database(name)

        table: dict[str, dict[str, dict[str, Verdict]]] = {}
        for title, grounds in GROUNDS.items():
            async for ground, script, run in runs(grounds, database):
                if why := breach(ground.asked, script, run):
                    print(f"{title}, {ground.level}, {script.title}: {why}", file=sys.stderr)
                table.setdefault(title, {}).setdefault(ground.level, {})[script.name] = verdict(script, run)
        return table


if __name__ == "__main__":
    FILE.write_text(text(asyncio.run(_record())), "utf-8")
