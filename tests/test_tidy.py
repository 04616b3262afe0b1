"""The shape of the code is a rule like any other: sizes, import direction, words, and what a test must not do.

Each rule is a function from one file to its complaints, so that it can be tried on a small bad example below.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60

# What a part of the package may import besides itself: all parts of lower levels, none beside it on its own level.
LEVELS = (
    ("errors",),
    ("protocol", "judge"),
    ("journal",),  # the promise of a SQLite node, so below it
    ("nodes",),
    ("engine",),
    ("sim", "prove", "testing", "server", "integrations"),
    ("bench", "demo"),  # users of everything below
    ("torture",),  # kills the demo's bank by more means than the demo has
    ("cli",),  # starts everything else, and imports what it starts where it starts it
    ("__init__",),  # the public names
    ("__main__",),  # `python -m nodoubt`
)
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}

# Started by tests of any program and as a bare script: these two know nothing but each other.
ALONE = {"nodoubt.testing.servers", "nodoubt.testing.processes"}

DRIVERS = ("asyncpg", "psycopg", "aiomysql", "pymysql", "apsw")

# One word per concept: what other books call it, and our word for it.
BANNED_WORDS = {
    "coordinator": "home, or manager",
    "resource_manager": "node",
    "subtransaction": "branch",
    "sub_transaction": "branch",
    "txid": "gid",
    "transaction_id": "gid",
    "commit_record": "decision",
    "limbo": "in doubt",
}

SLEEPS = {"time.sleep", "asyncio.sleep"}
ESCAPES = {
    "pytest.skip",
    "pytest.xfail",
    "pytest.importorskip",
    "pytest.mark.skip",
    "pytest.mark.skipif",
    "pytest.mark.xfail",
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of the tree: its path from the root, text and syntax."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def module(self) -> str:
        """Its dotted name, for a file in src."""
        return self.path.removeprefix("src/").removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def sources(folder: str) -> list[Source]:
    paths = sorted((ROOT / folder).rglob("*.py"))
    return [Source(path=path.relative_to(ROOT).as_posix(), text=path.read_text(encoding="utf-8")) for path in paths]


def long_file(source: Source) -> Iterator[str]:
    lines = len(source.text.splitlines())
    if lines > FILE_LINES_MAX:
        yield f"{source.path}: {lines} lines, more than {FILE_LINES_MAX}"


def long_functions(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield f"{source.path}:{node.lineno}: {node.name} has {lines} lines, more than {FUNCTION_LINES_MAX}"


def imported(source: Source) -> Iterator[tuple[int, str]]:
    """Each absolute name that a file imports, with its line; `from a import b` gives `a.b`."""
    package = source.module if source.path.endswith("/__init__.py") else source.module.rpartition(".")[0]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def wrong_imports(source: Source) -> Iterator[str]:
    """Imports against the direction; a part that LEVELS does not place is a complaint of its own."""
    own = [*source.module.split("."), "__init__"][1]
    if own not in LEVEL:
        yield f"{source.path}: `{own}` has no level; place it in LEVELS"
        return
    for line, name in imported(source):
        if name.partition(".")[0] != "nodoubt":
            continue
        if source.module in ALONE:
            if not any(f"{name}.".startswith(f"{friend}.") for friend in ALONE):
                yield f"{source.path}:{line}: {source.module} stands alone, but imports {name}"
            continue
        part = [*name.split("."), "__init__"][1]
        part = part if part in LEVEL else "__init__"  # `from nodoubt import Name`
        if part != own and LEVEL[part] >= LEVEL[own]:
            yield f"{source.path}:{line}: {own} must not import {name}"


def shared_drivers(files: list[Source]) -> Iterator[str]:
    for driver in DRIVERS:
        users = {file.path for file in files for _, name in imported(file) if name.partition(".")[0] == driver}
        if len(users) > 1 and not all(path.rpartition("/")[2].startswith(f"{driver}_") for path in users):
            yield f"{driver} belongs into files of its name, but is imported in {', '.join(sorted(users))}"


def banned_words(source: Source) -> Iterator[str]:
    for line, identifier in identifiers(source.tree):
        snake = "_" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", identifier).lower().strip("_") + "_"
        for word, ours in BANNED_WORDS.items():
            if f"_{word}_" in snake or f"_{word}s_" in snake:
                yield f"{source.path}:{line}: `{identifier}`; our word is: {ours}"


def identifiers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every name that a file gives or uses, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name


def forbidden_calls(source: Source, names: set[str]) -> Iterator[str]:
    """Uses of these dotted names, be they written out or imported; under another name counts too."""
    aliases = {
        alias.asname: alias.name
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.asname
    }
    for line, name in imported(source):
        if name in names:
            yield f"{source.path}:{line}: {name}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute):
            head, _, tail = ast.unparse(node).partition(".")
            if (name := f"{aliases.get(head, head)}.{tail}") in names:
                yield f"{source.path}:{node.lineno}: {name}"


def complaints(folder: str, *rules: Callable[[Source], Iterator[str]]) -> list[str]:
    return [complaint for source in sources(folder) for rule in rules for complaint in rule(source)]


@pytest.mark.parametrize("folder", ["src", "tests", "bench"])
def test_files_and_functions_are_short(folder: str) -> None:
    assert complaints(folder, long_file, long_functions) == []


def test_imports_go_one_way() -> None:
    assert sources("src")
    assert complaints("src", wrong_imports) == []


def test_each_driver_has_one_file() -> None:
    # The bench measures the bare drivers beside us: there it is a peer's driver, not a node's.
    assert list(shared_drivers([file for file in sources("src") if not file.module.startswith("nodoubt.bench")])) == []


@pytest.mark.parametrize("folder", ["src", "tests", "bench"])
def test_one_word_per_concept(folder: str) -> None:
    assert complaints(folder, banned_words) == []


def test_tests_neither_sleep_nor_skip() -> None:
    assert complaints("tests", lambda source: forbidden_calls(source, SLEEPS | ESCAPES)) == []


def example(text: str, path: str = "src/nodoubt/engine/example.py") -> Source:
    return Source(path=path, text=text)


def test_a_long_file_is_found() -> None:
    assert not list(long_file(example("x = 1\n" * FILE_LINES_MAX)))
    assert list(long_file(example("x = 1\n" * (FILE_LINES_MAX + 1))))


@pytest.mark.parametrize("start", ["def f():\n", "async def f():\n", "class C:\n  def f(self):\n"])
def test_a_long_function_is_found(start: str) -> None:
    body = "    x = 1\n"
    assert not list(long_functions(example(start + body * (FUNCTION_LINES_MAX - 1))))
    assert list(long_functions(example(start + body * FUNCTION_LINES_MAX)))


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("errors", "import nodoubt.protocol"),
        ("protocol/ids", "from nodoubt.engine.clock import now"),
        ("protocol/ids", "def late():\n    from nodoubt.nodes import sqlite"),
        ("protocol/ids", "from ..nodes import sqlite"),
        ("protocol/__init__", "from .. import nodes"),
        ("journal/files", "from nodoubt.nodes import sqlite"),
        ("engine/manager", "from nodoubt.sim import world"),
        ("engine/manager", "from nodoubt import TransactionManager"),
        ("server/app", "import nodoubt.cli"),
        ("bench/runner", "import nodoubt.cli"),
        ("engine/manager", "from nodoubt.bench import work"),
        ("testing/servers", "from nodoubt.errors import NodoubtError"),
        ("testing/servers", "from nodoubt import testing"),
        ("surprise", "import os"),
    ],
)
def test_an_import_against_the_direction_is_found(module: str, statement: str) -> None:
    assert list(wrong_imports(example(statement, f"src/nodoubt/{module}.py")))


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("__init__", "from nodoubt.engine.manager import TransactionManager"),
        ("protocol/ids", "from nodoubt.errors import NodoubtError"),
        ("protocol/ids", "from . import states"),
        ("engine/manager", "from nodoubt import errors, journal"),
        ("nodes/sqlite", "from nodoubt import journal"),
        ("sim/world", "from nodoubt.engine import manager"),
        ("cli/bench", "from nodoubt.bench import runner"),
        ("bench/grounds", "from nodoubt.testing.servers import PostgreSQLServer"),
        ("cli/demo", "def demo():\n    from nodoubt.testing import servers"),
        ("testing/servers", "from nodoubt.testing import processes"),
        ("testing/servers", "from nodoubt.testing.processes import find"),
    ],
)
def test_an_import_in_the_direction_is_fine(module: str, statement: str) -> None:
    assert not list(wrong_imports(example(statement, f"src/nodoubt/{module}.py")))


def test_a_driver_in_two_files_is_found() -> None:
    one, two = example("import apsw", "src/nodoubt/a.py"), example("from apsw.ext import x", "src/nodoubt/b.py")
    assert not list(shared_drivers([one, example("import apswx", "src/nodoubt/b.py")]))
    assert list(shared_drivers([one, two]))
    own = [example("import apsw", f"src/nodoubt/apsw_{part}.py") for part in ("driver", "cursor")]
    assert not list(shared_drivers(own))
    assert list(shared_drivers([*own, two]))


@pytest.mark.parametrize(
    "text",
    [
        "coordinator = 1",
        "class CoordinatorPool: pass",
        "def f(resource_manager): pass",
        "class ResourceManagers: pass",
        "f(txid=1)",
        "x.transaction_id",
        "async def to_limbo(): pass",
    ],
)
def test_a_foreign_word_is_found(text: str) -> None:
    assert list(banned_words(example(text)))


def test_words_in_prose_and_parts_of_words_are_fine() -> None:
    assert not list(banned_words(example('"""Has no coordinator."""\nmytxidx = "txid"')))


@pytest.mark.parametrize(
    "text",
    [
        "import time\ntime.sleep(1)",
        "import time as t\nt.sleep(1)",
        "from time import sleep",
        "from asyncio import sleep as nap",
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)",
        "import pytest\npytest.skip('no server')",
        "import pytest\n@pytest.mark.skipif(True, reason='')\ndef test(): pass",
        "import pytest\npytestmark = pytest.mark.xfail",
        "from pytest import importorskip",
    ],
)
def test_a_sleep_or_a_skip_is_found(text: str) -> None:
    assert list(forbidden_calls(example(text, "tests/test_example.py"), SLEEPS | ESCAPES))


def test_other_calls_are_fine() -> None:
    text = "import time\nimport pytest\ntime.monotonic()\npytest.raises(OSError)\nclock.sleep(1)"
    assert not list(forbidden_calls(example(text, "tests/test_example.py"), SLEEPS | ESCAPES))
