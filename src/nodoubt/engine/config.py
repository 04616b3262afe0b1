"""Where nodes and settings come from: arguments, then ``NODOUBT_*``, then ``nodoubt.toml``, then defaults.

Unknown keys are errors with a suggestion. ``${NAME}`` inside a text is replaced from the environment, so that secrets need not
stand in files.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nodoubt.engine.engine import Settings
from nodoubt.errors import ConfigError
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.protocol.ids import check_name

Source = str | os.PathLike[str] | Mapping[str, Any]

_PREFIX = "NODOUBT_"
_SECRET = re.compile(r"\$\{(\w+)\}")
_SETTINGS = {f.name: f for f in fields(Settings) if f.name != "watch"}
_NODE = {f.name: f for f in fields(NodeSettings)}
#: Retention must outlive every session that could still insert the same key, with a wide margin (recovery rule 7).
RETENTION_MARGIN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A checked configuration."""

    domain: str
    nodes: Mapping[str, NodeSettings]
    settings: Settings = field(default_factory=Settings)


def load(source: Source | None = None, *, domain: str | None = None, **settings: Any) -> Config:
    """Read a configuration.

    ``source`` is the path of a TOML file, or a mapping ``{node: URL or table}``; None means ``NODOUBT_CONFIG`` or
    ``nodoubt.toml``. ``settings`` are fields of Settings and win over everything else. Raises ConfigError.
    """
    if isinstance(source, Mapping):
        table: dict[str, Any] = {"nodes": dict(source)}
    else:
        table = _file(Path(source or os.environ.get(f"{_PREFIX}CONFIG") or "nodoubt.toml"))
    _known("key", table, ("domain", "nodes", *_SETTINGS))
    for name, value in os.environ.items():
        key = name.removeprefix(_PREFIX).lower()
        if name.startswith(_PREFIX) and key in (*_SETTINGS, "domain"):
            table[key] = value
    table.update({key: value for key, value in settings.items() if value is not None})
    _known("setting", settings, (*_SETTINGS, "watch"))
    nodes = table.pop("nodes", None)
    if not isinstance(nodes, Mapping) or not nodes:
        raise ConfigError(
            "no nodes are configured", hint='add a table [nodes] with lines such as orders = "postgresql://…"'
        )
    chosen = domain or str(table.pop("domain", "nodoubt"))
    table.pop("domain", None)
    watch = table.pop("watch", None)
    made = Settings(**{key: _value(key, value, _SETTINGS[key].default) for key, value in table.items()}, watch=watch)
    config = Config(
        domain=check_name("domain", chosen),
        nodes={check_name("node", name): _node(name, value) for name, value in nodes.items()},
        settings=made,
    )
    _check(config)
    return config


def _file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"there is no {path}", hint="write one, or name another with --config or NODOUBT_CONFIG"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _node(name: str, value: Any) -> NodeSettings:
    table: Any = {"url": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping) or not isinstance(table.get("url"), str):
        raise ConfigError(
            f"node {name!r} has no url", hint=f'write {name} = "postgresql://…" or {name} = {{ url = "…" }}'
        )
    _known(f"key of node {name!r}:", table, _NODE)
    known = {
        key: _value(f"{name}.{key}", item, _NODE[key].default)
        for key, item in table.items()
        if key not in ("url", "options")
    }
    return NodeSettings(url=_expand(table["url"]), options=dict(table.get("options", {})), **known)


def _known(what: str, table: Iterable[str], known: Iterable[str]) -> None:
    names = list(known)
    for key in table:
        if key not in names:
            close = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(sorted(names))}"
            raise ConfigError(f"unknown {what} {key!r}", hint=hint)


def _value(key: str, value: Any, default: Any) -> Any:
    """Read a value as the type of its default; numbers must be positive."""
    try:
        if isinstance(default, bool):
            return (
                value
                if isinstance(value, bool)
                else {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
            )
        number = type(default)(value)
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{key} = {value!r} is not a {type(default).__name__}") from None
    if number <= 0:
        raise ConfigError(f"{key} = {value!r} must be more than 0")
    return number


def _expand(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        try:
            return os.environ[match[1]]
        except KeyError:
            raise ConfigError(f"the configuration names ${{{match[1]}}}, which the environment does not have") from None

    return _SECRET.sub(replace, text)


def _check(config: Config) -> None:
    longest_s = max(node.session_limit_s for node in config.nodes.values())
    if config.settings.retention_s < RETENTION_MARGIN * longest_s:
        raise ConfigError(
            f"retention_s = {config.settings.retention_s:g} is too short",
            hint=f"it must be at least {RETENTION_MARGIN} times session_limit_s ({longest_s:g})",
        )
