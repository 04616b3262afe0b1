"""What all commands share: usage, errors, interruption, and the examples of every help."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from nodoubt.cli import doctor, init, settle, tx
from nodoubt.cli.common import EXIT_CODES, Exit
from nodoubt.errors import OutcomeUnknown
from tests.cli.conftest import Run, Shop, write_config

NOWHERE = "postgresql://postgres@127.0.0.1:1/none"

EXAMPLES = [
    *(("init", text) for text in init.EXAMPLES),
    *(("doctor", text) for text in doctor.EXAMPLES),
    *(("settle", text) for text in settle.EXAMPLES),
    *((f"tx {name}", text) for name, texts in tx.EXAMPLES.items() for text in texts),
]
#: An example that ends only when it is told to is run by a test of its own.
ENDLESS = "nodoubt settle --watch --every 5"


def test_the_version_is_the_packages(run: Run) -> None:
    printed = run("--version")
    assert (printed.code, printed.out) == (0, f"nodoubt {version('nodoubt')}\n")


@pytest.mark.parametrize(
    "words", [(), ("init",), ("doctor",), ("settle",), ("tx", "list"), ("tx", "show"), ("tx", "resolve")]
)
def test_every_help_has_the_exit_codes(run: Run, words: tuple[str, ...]) -> None:
    printed = run(*words, "--help")
    assert printed.code == 0
    assert "  4    in doubt" in printed.out


@pytest.mark.parametrize(("command", "example"), EXAMPLES)
def test_the_examples_are_in_the_help(run: Run, command: str, example: str) -> None:
    assert f"  {example}\n" in run(*command.split(), "--help").out


@pytest.mark.parametrize("example", [example for _, example in EXAMPLES if example != ENDLESS])
def test_the_examples_work(run: Run, shop: Shop, example: str) -> None:
    gid = shop.gid()
    if " resolve " in example:
        home = "lost" if "--home" in example else "orders"
        shop.prepare(gid, 1, "billing", home)
        shop.decide(gid, "orders", "garbage") if home == "orders" else None
        example = f"{example} --yes" if "--yes" not in example else example
    elif " show " in example:
        shop.decide(gid, "orders", "aborted")
    words = shlex.split(example.replace("GID", gid))[1:]
    for name in ("orders", "stock"):
        words = [word.replace(f"postgresql://localhost/{name}", shop.urls[name]) for word in words]
    if "--nodes" in words and "--domain" not in words:
        words += ["--domain", "shop"]
    printed = run(*words)
    assert (printed.code, printed.err) == (0, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "COMMAND"),
        (("setle",), "invalid choice: 'setle'"),
        (("settle", "--grace", "-1"), "number of seconds"),
        (("settle", "--grace", "nan"), "number of seconds"),
        (("tx", "resolve", "x", "--commit", "--abort", "--reason", "y"), "not allowed with"),
        (("tx", "resolve", "x", "--reason", "y"), "--commit --abort"),
        (("tx", "resolve", "x", "--commit"), "--reason"),
        (("doctor", "--nodes", "orders"), "--nodes takes NAME=URL"),
        (("doctor", "--nodes", "a=x", "a=y"), "named twice"),
        (("doctor", "--nodes", "a=x", "--config", "y"), "exclude each other"),
        (("doctor", "--nodes", "a=oracle://x"), "no asynchronous driver for 'oracle'"),
        (("doctor", "--config", "none.toml"), "there is no none.toml"),
        (("doctor",), "there is no nodoubt.toml"),
    ],
)
def test_wrong_usage_is_2_with_a_message_and_a_hint(run: Run, words: tuple[str, ...], message: str) -> None:
    printed = run(*words)
    assert printed.code == 2
    assert printed.out == ""
    first, second = printed.err.splitlines()
    assert first.startswith("nodoubt: ")
    assert message in first
    assert second.startswith("  hint: ")
    printed = run(*words, "--json")
    assert (printed.code, printed.err) == (2, "")
    assert message in printed.json["error"]
    assert printed.json["hint"]


def test_an_unknown_key_is_refused_with_a_suggestion(run: Run) -> None:
    write_config({"a": NOWHERE}, settle_evry_s=3)
    printed = run("tx", "list")
    assert printed.code == 2
    assert "unknown key 'settle_evry_s'" in printed.err
    assert "did you mean 'settle_every_s'?" in printed.err


def test_a_traceback_comes_only_when_asked_for(run: Run) -> None:
    assert "Traceback" not in run("doctor").err
    assert "Traceback" in run("doctor", "--verbose").err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "nodoubt: interrupted"),
        (OutcomeUnknown("home is silent", gid="g"), 4, "nodoubt: g: home is silent"),
        (RuntimeError("two\nlines"), 1, "nodoubt: a bug in nodoubt: RuntimeError: two lines"),
    ],
)
def test_whatever_ends_a_command_has_its_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(doctor, "configuration", fail)
    printed = run("doctor")
    assert printed.code == code
    assert printed.err.splitlines()[0] == message


def test_the_command_runs_as_a_program(shop: Shop) -> None:
    for command in (["-m", "nodoubt"], ["-c", "import sys; from nodoubt.cli import main; sys.exit(main())"]):
        done = subprocess.run(
            [sys.executable, *command, "tx", "list", "--json"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == {"in_doubt": [], "unreachable": {}, "foreign": {}}


def test_a_failing_program_has_the_exit_code() -> None:
    done = subprocess.run([sys.executable, "-m", "nodoubt", "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("nodoubt: there is no nodoubt.toml\n  hint: ")


def test_a_reader_that_went_away_is_no_traceback(shop: Shop) -> None:
    shell = f"{shlex.quote(sys.executable)} -m nodoubt init --sql | true"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_the_reference_has_the_table_of_exit_codes() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "commands.md").read_text("utf-8")
    for line in EXIT_CODES.splitlines()[1:]:
        code, meaning = line.split(maxsplit=1)
        assert f"| {code} | {meaning} |\n" in text
    assert {int(line.split()[0]) for line in EXIT_CODES.splitlines()[1:]} == set(Exit)


def test_an_interrupted_program_ends_at_once_with_130() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        write_config({"orders": f"postgresql://postgres@127.0.0.1:{silent.getsockname()[1]}/orders"})
        command = [sys.executable, "-m", "nodoubt", "settle"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = silent.accept()
            with connection:
                # It waits for an answer now, and no longer for the connection.
                assert connection.recv(1)
                process.send_signal(signal.SIGINT)
                assert process.communicate() == ("", "nodoubt: interrupted\n")
        assert process.returncode == 130
