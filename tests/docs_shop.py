"""What the documents' examples run on: their fenced blocks, and the README's shop on real servers in a folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import psycopg

from tests import plain

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return [text for found, text in _BLOCK.findall(path.read_text("utf-8")) if found == language]


def commands(path: Path) -> Iterator[str]:
    """Every command that a page shows, without its comment."""
    for text in blocks(path, "sh"):
        for line in text.splitlines():
            if command := re.sub(r"(^|\s+)#.*$", "", line).strip():
                yield command


def printed(code: str) -> list[str]:
    """What a block says that it prints: the comments behind its calls of print."""
    return re.findall(r"^\s*print\(.*\)  # (.+)$", code, re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Shop:
    """The README's configuration and tables, for programs in ``folder`` with ``environment``."""

    folder: Path
    urls: Mapping[str, str]
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("NODOUBT_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        given = {f"{name.upper()}_URL": url for name, url in self.urls.items()}
        object.__setattr__(self, "environment", {**kept, **given, "PATH": path})
        (config,) = blocks(ROOT / "README.md", "toml")
        (self.folder / "nodoubt.toml").write_text(config, "utf-8")

    def run(self, command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a line of shell."""
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            check=False,
        )

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run a program, warnings and all."""
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def furnish(self) -> None:
        """Make nodoubt's tables by its command, and those of the examples by the README's SQL."""
        made = self.run("nodoubt init")
        assert made.returncode == 0, made.stdout + made.stderr
        (text,) = blocks(ROOT / "README.md", "sql")
        for node, statements in re.findall(r"^-- (\w+)\n((?:(?!-- ).*\n)+)", text, re.MULTILINE):
            self.sql(node, statements)

    def sql(self, node: str, text: str) -> list[tuple[object, ...]]:
        """Run statements on a node by its bare driver; returns the rows of the last."""
        statements = [statement for statement in text.split(";") if statement.strip()]
        rows: list[tuple[object, ...]] = []
        if node == "till":
            file = apsw.Connection(str(self.folder / "till.db"))
            for statement in statements:
                rows = list(file.execute(statement))
            file.close()
            return rows
        if node == "orders":
            with psycopg.connect(self.urls[node], autocommit=True) as connection:
                for statement in statements:
                    found = connection.execute(statement.encode())
                    rows = found.fetchall() if found.description else []
            return rows
        with plain.mariadb(self.urls[node]) as raw, raw.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
                rows = list(cursor.fetchall())
        return rows
