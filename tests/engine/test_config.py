"""Where a setting comes from, what is refused, and what the refusal suggests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodoubt.engine.config import load
from nodoubt.errors import ConfigError

NODES = {"orders": "postgresql://me@here/orders"}
Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("NODOUBT_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "nodoubt.toml"
        path.write_text(text, "utf-8")
        return path

    return write


def refusal(source: Any = NODES, **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(source, **settings)
    return str(caught.value)


def test_defaults_hold_where_nothing_is_said() -> None:
    config = load(NODES)
    assert config.domain == "nodoubt"
    assert config.settings.timeout_s == 60
    assert config.nodes["orders"].url == "postgresql://me@here/orders"
    assert config.nodes["orders"].pool_size == 20


def test_a_file_wins_over_defaults_the_environment_over_the_file_arguments_over_all(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(
        'domain = "filed"\ntimeout_s = 5\ngrace_s = 6\nsettle_every_s = 7\n[nodes]\norders = "postgresql://h/o"\n'
    )
    monkeypatch.setenv("NODOUBT_GRACE_S", "66")
    monkeypatch.setenv("NODOUBT_SETTLE_EVERY_S", "77")
    monkeypatch.setenv("NODOUBT_DOMAIN", "environed")
    config = load(path, settle_every_s=777)
    assert (config.settings.timeout_s, config.settings.grace_s, config.settings.settle_every_s) == (5, 66, 777)
    assert config.domain == "environed"
    assert load(path, domain="argued").domain == "argued"


def test_the_environment_names_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODOUBT_CONFIG", str(write('[nodes]\na = "postgresql://h/a"\n')))
    assert list(load().nodes) == ["a"]


def test_the_file_of_the_working_directory_is_the_last_resort(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write('[nodes]\na = "postgresql://h/a"\n').parent)
    assert list(load().nodes) == ["a"]


def test_a_node_may_be_a_table(write: Write) -> None:
    path = write('[nodes.a]\nurl = "postgresql://h/a"\npool_size = 3\nlock_timeout_s = 1\noptions = { ssl = false }\n')
    node = load(path).nodes["a"]
    assert (node.pool_size, node.lock_timeout_s, node.options) == (3, 1.0, {"ssl": False})


def test_an_empty_domain_is_refused_and_not_replaced() -> None:
    assert "domain ''" in refusal(domain="")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('timeout = 3\n[nodes]\na = "x"\n', "unknown key 'timeout'", "did you mean 'timeout_s'?"),
        ('[nodes.a]\nurl = "x"\npoolsize = 3\n', "unknown key of node 'a': 'poolsize'", "did you mean 'pool_size'?"),
        ('[node]\na = "x"\n', "unknown key 'node'", "did you mean 'nodes'?"),
        ('watch = 3\n[nodes]\na = "x"\n', "unknown key 'watch'", "known are: domain"),
        ("[nodes]\na = 3\n", "node 'a' has no url", 'a = "postgresql://…"'),
        ("[nodes.a]\npool_size = 3\n", "node 'a' has no url", "url ="),
        ('[nodes.a]\nurl = "x"\noptions = 3\n', "a.options = 3 is not a table", "options = {"),
        ("", "no nodes are configured", "[nodes]"),
        ("nodes = 3\n", "no nodes are configured", "[nodes]"),
        ("[nodes]\n", "no nodes are configured", "[nodes]"),
        ('[nodes]\nA = "x"\n', "node 'A' is not a valid name", "lower-case"),
        ('domain = 3\n[nodes]\na = "x"\n', "domain '3' is not a valid name", "lower-case"),
        ("[nodes\n", "cannot be read", ""),
    ],
)
def test_a_wrong_file_is_refused_with_a_hint(write: Write, text: str, message: str, hint: str) -> None:
    told = refusal(write(text))
    assert message in told
    assert hint in told


def test_a_missing_file_is_refused_with_a_hint(tmp_path: Path) -> None:
    told = refusal(tmp_path / "none.toml")
    assert "there is no" in told
    assert "--config" in told


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path)


def test_an_unknown_argument_is_refused_with_a_hint() -> None:
    assert "did you mean 'timeout_s'?" in refusal(timeout=3)


def test_an_unknown_variable_is_refused_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODOUBT_GRACE", "3")
    told = refusal()
    assert "unknown variable 'NODOUBT_GRACE'" in told
    assert "did you mean 'NODOUBT_GRACE_S'?" in told


def test_a_variable_that_is_a_nodes_secret_is_no_unknown_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODOUBT_PASSWORD", "x")
    assert load({"a": "postgresql://u:${NODOUBT_PASSWORD}@h/a"}).nodes["a"].url == "postgresql://u:x@h/a"


@pytest.mark.parametrize("value", ["0", "-1", 0, -2.5])
def test_a_number_must_be_more_than_0(value: object) -> None:
    assert "must be more than 0" in refusal(timeout_s=value)


@pytest.mark.parametrize("value", ["soon", "nan", "inf", float("nan"), True, [3]])
def test_a_number_must_be_a_finite_number(value: object) -> None:
    assert "is not a number" in refusal(timeout_s=value)


@pytest.mark.parametrize("value", ["2.5", 2.5, True, "many"])
def test_a_whole_number_must_be_whole(value: object) -> None:
    assert "a.pool_size" in refusal({"a": {"url": "x", "pool_size": value}})


@pytest.mark.parametrize(("value", "meant"), [(True, True), ("false", False), ("0", False), ("TRUE", True), (1, True)])
def test_a_boolean_may_be_spelt_as_the_environment_can(value: object, meant: bool) -> None:
    assert load(NODES, settle=value).settings.settle is meant


def test_anything_else_is_no_boolean() -> None:
    assert "settle = 'maybe' is not a boolean" in refusal(settle="maybe")


def test_a_secret_in_the_login_is_percent_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "p@ss/w:rd%")
    assert load({"a": "postgresql://u:${SECRET}@h/a"}).nodes["a"].url == "postgresql://u:p%40ss%2Fw%3Ard%25@h/a"


def test_any_other_part_of_a_url_and_options_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "h:5/a")
    monkeypatch.setenv("WHOLE", "postgresql://u:p%40@h/b")
    nodes = load(
        {"a": "postgresql://u@${WHERE}", "b": {"url": "${WHOLE}", "options": {"password": "${WHERE}", "ssl": 1}}}
    ).nodes
    assert nodes["a"].url == "postgresql://u@h:5/a"
    assert nodes["b"].url == "postgresql://u:p%40@h/b"
    assert nodes["b"].options == {"password": "h:5/a", "ssl": 1}


def test_a_secret_that_the_environment_lacks_is_named() -> None:
    assert "${NOWHERE}" in refusal({"a": "postgresql://u:${NOWHERE}@h/a"})


def test_a_retention_must_outlive_every_session_by_far() -> None:
    assert "at least 10 times session_limit_s (600)" in refusal(retention_s=5999)
    assert load(NODES, retention_s=6000).settings.retention_s == 6000
    assert "at least 10 times" in refusal({"a": {"url": "x", "session_limit_s": 10_000}})


def test_a_retention_must_outlive_every_probe() -> None:
    nodes = {"a": {"url": "sqlite:a.db", "session_limit_s": 1}}
    assert "(1) and 90" in refusal(nodes, retention_s=89)
    assert load(nodes, retention_s=90).settings.retention_s == 90
