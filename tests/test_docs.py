"""What the documents show is run, what they name is there.

Shown are: ``python`` blocks (run as they stand; a comment behind ``print(…)`` is what is printed), ``sh`` blocks (every line is
run), the README's ``toml`` and ``sql`` (used by both), links, and paths with symbols.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nodoubt
from nodoubt import AsyncTransactionManager
from nodoubt.cli import main
from nodoubt.cli.common import EXIT_CODES
from nodoubt.engine.config import load
from nodoubt.protocol.ids import BranchId, new_gid
from tests.conftest import DatabaseFactory
from tests.docs_shop import PAGES, ROOT, Shop, blocks, commands, printed

README, GUIDE, ARCHITECTURE = ROOT / "README.md", ROOT / "docs" / "guide.md", ROOT / "ARCHITECTURE.md"
ISOLATION = ROOT / "docs" / "isolation.md"
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
#: Options that make a command short that is shown without.
SHORTER = {
    "nodoubt demo": "nodoubt demo --seconds 1 --workers 2 --kills 1",
    "nodoubt bench": "nodoubt bench --scenario one-node --rounds 1 --seconds 0.2 --nodes orders=$ORDERS_URL",
}
SHOWN = [(page, command) for page in PAGES for command in commands(page)]
MAKES = [command for _, command in SHOWN if command.startswith("make")]
INSTALLS = [command for _, command in SHOWN if command.startswith("pip")]
RUNS = sorted({command for _, command in SHOWN} - {*MAKES, *INSTALLS})
ENDLESS = "nodoubt settle --watch"


@pytest.fixture
def shop(database: DatabaseFactory, tmp_path: Path) -> Shop:
    """The README's three nodes; two of them on servers."""
    return Shop(folder=tmp_path, urls={"orders": database("postgresql"), "stock": database("mariadb")})


@pytest.fixture
def furnished(shop: Shop) -> Shop:
    shop.furnish()
    return shop


def test_the_readmes_programs_run(furnished: Shop) -> None:
    programs = blocks(README, "python")
    assert len(programs) == 2
    for program in programs:
        done = furnished.python(program)
        assert (done.stderr, done.stdout.splitlines()) == ("", printed(program))
        assert printed(program)
    assert furnished.sql("orders", "SELECT id FROM sale ORDER BY id") == [("sale-1",), ("sale-2",)]
    assert furnished.sql("stock", "SELECT amount FROM item") == [(9,)]
    assert furnished.sql("till", "SELECT cents FROM cash") == [(350,)]


@pytest.mark.parametrize(
    ("page", "sold"),
    [
        (GUIDE, [("sale-3", "again"), ("sale-5", "tea")]),
        (ISOLATION, [("sale-10", "tea"), ("sale-8", "tea"), ("sale-9", "tea")]),
    ],
    ids=lambda value: value.stem if isinstance(value, Path) else "",
)
async def test_the_blocks_of_a_page_run_one_after_another(
    page: Path,
    sold: list[tuple[str, str]],
    furnished: Shop,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(furnished.folder)
    for name, url in furnished.urls.items():
        monkeypatch.setenv(f"{name.upper()}_URL", url)
    programs = blocks(page, "python")
    assert programs
    async with AsyncTransactionManager.open("nodoubt.toml") as tm:
        names: dict[str, Any] = {"tm": tm}
        for number, program in enumerate(programs):
            code = compile(program, f"{page.name}, block {number}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, names)
            if inspect.iscoroutine(result):
                await result
            assert capsys.readouterr().out.splitlines() == printed(program), program
        assert not await tm.in_doubt()
    assert furnished.sql("orders", "SELECT id, item FROM sale ORDER BY id") == sold


def test_the_guides_configuration_can_be_loaded(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERS_URL", shop.urls["orders"])
    (text,) = blocks(GUIDE, "toml")
    path = shop.folder / "guide.toml"
    path.write_text(text, "utf-8")
    assert load(path).nodes["orders"].pool_size == 40


def test_the_authors_example_passes(tmp_path: Path) -> None:
    (program,) = blocks(ROOT / "docs" / "adapters.md", "python")
    path = tmp_path / "test_mine.py"
    path.write_text(program, "utf-8")
    command = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", str(path)]
    shop = Shop(folder=tmp_path, urls={})
    done = subprocess.run(command, cwd=ROOT, env=shop.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def left_in_doubt(shop: Shop, home: str) -> str:
    """Leave a prepared branch on ``orders``, as a process that crashed does; returns its gid."""
    gid = new_gid(1_750_000_000_000, b"0123456789")
    branch = BranchId(domain="shop", gid=gid, branch=1, home=home).text()
    shop.sql(
        "orders",
        f"BEGIN; INSERT INTO sale VALUES ('left', 'tea'); INSERT INTO nodoubt.branch VALUES ('{gid}', 1);"
        f" PREPARE TRANSACTION '{branch}'",
    )
    return gid


@pytest.mark.parametrize("command", [command for command in RUNS if not command.startswith((ENDLESS, "nodoubt init"))])
def test_shown_commands_run(furnished: Shop, command: str) -> None:
    if command.startswith("nodoubt bench"):
        # It takes a database without tables of another domain.
        furnished.sql("orders", "DROP SCHEMA nodoubt CASCADE")
    elif command.startswith("nodoubt judge"):
        (history,) = blocks(ROOT / "docs" / "judge.md", "jsonl")
        (furnished.folder / "history.jsonl").write_text(history, "utf-8")
    gid = new_gid(1, b"0123456789")
    if " resolve " in command:
        gid = left_in_doubt(furnished, "burnt")
    elif "$GID" in command:
        gid = left_in_doubt(furnished, "stock")
        assert furnished.run("nodoubt settle --grace 0.001").returncode == 0
    done = furnished.run(SHORTER.get(command, command), GID=gid)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


@pytest.mark.parametrize("command", [command for command in RUNS if command.startswith("nodoubt init")])
def test_shown_init_runs_on_empty_databases(shop: Shop, command: str) -> None:
    for _ in range(2):
        done = shop.run(command)
        assert (done.returncode, done.stderr) == (0, "")
    if "--sql" not in command:
        assert done.stdout.splitlines() == [f"{node}: already installed, schema 1" for node in (*shop.urls, "till")]


async def test_shown_settle_watches_until_it_is_interrupted(furnished: Shop) -> None:
    assert ENDLESS in RUNS
    process = await asyncio.create_subprocess_exec(
        *shlex.split(ENDLESS),
        cwd=furnished.folder,
        env=furnished.environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    assert (await process.stderr.readline()).startswith(b"settling every 10 s")
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0


def examples(words: str) -> list[str]:
    """The commands in a help, behind the line `examples:`."""
    _, _, text = words.partition("\nexamples:\n")
    return re.findall(r"^  (nodoubt .+)$", text, re.MULTILINE)


def test_the_demos_help_shows_what_runs(shop: Shop) -> None:
    """The other commands' examples are run by their own tests."""
    shown = examples(shop.run("nodoubt demo --help").stdout)
    assert len(shown) == 3
    for command in shown:
        words = re.sub(r"(orders|stock)=\S+", lambda match: f"{match[1]}={shop.urls[match[1]]}", command)
        done = shop.run(f"{words} --seconds 1 --workers 2 --kills 1")
        # Without protection money may be lost, which is what it is for.
        assert done.returncode in ((0, 1) if "--unprotected" in command else (0,)), done.stdout + done.stderr


def test_only_nodoubt_make_and_pip_are_shown() -> None:
    assert {command.split()[0] for _, command in SHOWN} == {"nodoubt", "make", "pip"}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):.*##", MAKEFILE, re.MULTILINE))


def test_shown_make_targets_exist() -> None:
    named = {word for page in PAGES for word in re.findall(r"`make ([a-z]+)", page.read_text("utf-8"))}
    named |= {command.split()[1] for command in MAKES}
    assert {"demo", "test"} <= named
    assert named - make_targets() == set()
    # What they run is run by the demo's and the bench's own tests.
    assert "$(BIN)/nodoubt demo $(ARGS)" in MAKEFILE
    assert "$(BIN)/nodoubt bench $(ARGS)" in MAKEFILE


def test_hacking_has_every_make_target() -> None:
    text = (ROOT / "HACKING.md").read_text("utf-8")
    assert [target for target in sorted(make_targets() - {"help"}) if f"`make {target}`" not in text] == []


def test_shown_extras_exist() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    shown = {
        extra
        for page in PAGES
        for extras in re.findall(r"pip install '(?:nodoubt|\.)\[([\w,]+)\]'", page.read_text("utf-8"))
        for extra in extras.split(",")
    }
    assert {"postgresql", "mariadb", "sqlite"} <= shown
    assert shown <= set(known)


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
            if "://" not in target:
                yield page, target


@pytest.mark.parametrize(("page", "target"), list(links()), ids=lambda value: getattr(value, "name", value))
def test_links_lead_somewhere(page: Path, target: str) -> None:
    assert (page.parent / target.partition("#")[0]).exists()


def test_every_record_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"\]\(([\w-]+\.md)\)", (folder / "README.md").read_text("utf-8"))
    assert sorted(listed) == sorted(path.name for path in folder.glob("*.md") if path.name != "README.md")


def paths() -> set[tuple[str, str, str]]:
    """Paths of Python files that a page names, with the symbol behind a colon."""
    pattern = re.compile(r"`((?:src/nodoubt/|tests/)?[\w/]+\.py)(?::([\w.]+))?`")
    return {(page.name, *found) for page in PAGES for found in pattern.findall(page.read_text("utf-8"))}


@pytest.mark.parametrize(("page", "path", "symbol"), sorted(paths()))
def test_named_files_and_symbols_exist(page: str, path: str, symbol: str) -> None:
    package = ROOT / "src" / "nodoubt"
    places = [ROOT / path, package / path, package / "protocol" / path, package / "engine" / path]
    file = next(place for place in places if place.exists())
    body = ast.parse(file.read_text("utf-8")).body
    for name in symbol.split(".") if symbol else []:
        found = [
            node
            for node in body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name
        ]
        assert found, f"{page} names {path}:{symbol}"
        body = found[0].body


def test_the_journey_has_every_crash_point_and_room() -> None:
    text = ARCHITECTURE.read_text("utf-8")
    assert re.findall(r"^\| (C\d+) \|", text, re.MULTILINE) == [f"C{number}" for number in range(1, 13)]
    rooms = {path.name for path in (ROOT / "src" / "nodoubt").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {room for room in rooms if f"`{room}/`" not in text} == set()


@pytest.mark.parametrize("page", ["docs/operations.md", "docs/reference/commands.md"])
def test_the_exit_codes_are_those_of_the_commands(page: str) -> None:
    shown = re.findall(r"^\| (\d+) \| (.+) \|$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    assert shown == [tuple(line.split(maxsplit=1)) for line in EXIT_CODES.splitlines()[1:]]


def test_the_guide_explains_every_error() -> None:
    text = GUIDE.read_text("utf-8")
    errors = [
        name
        for name in nodoubt.__all__
        if isinstance(kind := getattr(nodoubt, name), type) and issubclass(kind, nodoubt.NodoubtError)
    ]
    assert [name for name in errors if name != "NodoubtError" and f"| `{name}` |" not in text] == []


def test_the_reference_has_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = re.findall(r"^    (\w+)  ", capsys.readouterr().out, re.MULTILINE)
    text = (ROOT / "docs" / "reference" / "commands.md").read_text("utf-8")
    assert len(listed) >= 6
    assert [name for name in listed if f"| `{name}" not in text] == []
