"""The package as a stranger gets it: a typed wheel with a licence, a command and extras, whose core needs nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from nodoubt import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DRIVERS = ("asyncpg", "psycopg", "aiomysql", "pymysql", "apsw")


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NODOUBT_", "PIP_"))}
    return subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a source archive as an index would hold it."""
    folder = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    assert archive.name == f"nodoubt-{__version__}.tar.gz"
    assert wheel.name == f"nodoubt-{__version__}-py3-none-any.whl"
    return wheel


def bare(wheel: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code with the wheel and the standard library, and nothing else on the path."""
    return run(
        sys.executable, "-I", "-S", "-W", "error", "-c", f"import sys; sys.path.insert(0, {str(wheel)!r})\n{code}"
    )


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"nodoubt-{__version__}.dist-info/METADATA").decode()
    return Parser().parsestr(text)


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    folder = ROOT / "src"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    sources = {path for path in files if "__pycache__" not in path}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = f"nodoubt-{__version__}.dist-info"
    assert {name for name in names if not name.startswith(about)} == sources
    assert "nodoubt/py.typed" in names
    assert f"{about}/licenses/LICENSE" in names


def test_the_metadata_say_what_it_is(wheel: Path) -> None:
    said = metadata(wheel)
    assert said["License-Expression"] == "Apache-2.0"
    assert said["Requires-Python"] == PROJECT["requires-python"]
    assert "Typing :: Typed" in said.get_all("Classifier", [])
    assert set(said.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    unconditional = [need for need in said.get_all("Requires-Dist", []) if "extra ==" not in need]
    assert unconditional == []
    assert said.get_payload().startswith("# nodoubt\n")  # type: ignore[union-attr]


def test_a_driver_belongs_to_one_extra() -> None:
    extras = {
        driver: [
            extra
            for extra, needs in PROJECT["optional-dependencies"].items()
            if any(re.match(rf"{driver}\b", need, re.IGNORECASE) for need in needs)
        ]
        for driver in DRIVERS
    }
    assert extras == {
        "asyncpg": ["postgresql"],
        "psycopg": ["postgresql"],
        "aiomysql": ["mariadb"],
        "pymysql": ["mariadb"],
        "apsw": ["sqlite"],
    }


@pytest.mark.parametrize("extra", ["postgresql", "mariadb", "sqlite", "postgresql,mariadb,sqlite", "all"])
def test_it_can_be_installed_with_extras(wheel: Path, extra: str) -> None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-index", "--dry-run")
    done = run(*pip, "--force-reinstall", "--no-deps", f"{wheel}[{extra}]")
    assert done.returncode == 0, done.stderr
    assert f"Would install nodoubt-{__version__}" in done.stdout
    # What the extras need is here already, or pip would look for it in no index and fail.
    done = run(*pip, f"nodoubt[{extra}] @ {wheel.as_uri()}")
    assert done.returncode == 0, done.stderr
    assert "does not provide the extra" not in done.stderr


def test_the_installed_command_runs(wheel: Path, tmp_path: Path) -> None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-index", "--no-deps", "--quiet")
    assert run(*pip, "--target", tmp_path, wheel).returncode == 0
    done = run(tmp_path / "bin" / "nodoubt", "--version", PYTHONPATH=str(tmp_path))
    assert (done.stdout, done.stderr) == (f"nodoubt {__version__}\n", "")


def test_the_core_needs_no_other_package(wheel: Path) -> None:
    code = f"""
import nodoubt, nodoubt.cli
assert nodoubt.__file__.startswith({str(wheel)!r}), nodoubt.__file__
assert nodoubt.__version__ == {__version__!r}
foreign = {{name.partition(".")[0] for name in sys.modules}} - set(sys.stdlib_module_names) - {{"__main__", "nodoubt"}}
assert not foreign, foreign
assert nodoubt.cli.main(["--help"]) == 0
"""
    done = bare(wheel, code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: nodoubt" in done.stdout


@pytest.mark.parametrize("manager", ["TransactionManager", "AsyncTransactionManager"])
@pytest.mark.parametrize(
    ("url", "extra"),
    [
        ("postgresql://localhost/orders", "postgresql"),
        ("postgresql+psycopg://localhost/orders", "postgresql"),
        ("mariadb://localhost/orders", "mariadb"),
        ("mysql://localhost/orders", "mariadb"),
        ("sqlite:///orders.db", "sqlite"),
    ],
)
def test_a_missing_driver_names_its_extra(wheel: Path, manager: str, url: str, extra: str) -> None:
    code = f"""
import asyncio
from nodoubt import ConfigError, {manager}
async def enter(manager):
    await manager.__aenter__()
manager = {manager}.open({{"orders": {url!r}}})
try:
    asyncio.run(enter(manager)) if hasattr(manager, "__aenter__") else manager.__enter__()
except ConfigError as error:
    print(error)
"""
    done = bare(wheel, code)
    assert (done.returncode, done.stderr) == (0, "")
    said, hint = done.stdout.splitlines()
    assert re.fullmatch(r"node 'orders' needs the package '(asyncpg|psycopg|aiomysql|pymysql|apsw)'", said)
    assert hint == f"  hint: pip install 'nodoubt[{extra}]'"


def test_the_command_names_a_missing_extra(wheel: Path) -> None:
    done = bare(
        wheel, "from nodoubt.cli import main\nraise SystemExit(main(['doctor', '--nodes', 'till=sqlite:///t.db']))"
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[1] == "  hint: pip install 'nodoubt[sqlite]'"
