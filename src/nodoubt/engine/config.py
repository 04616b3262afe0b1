"""Where nodes and settings come from: arguments, then ``NODOUBT_*``, then ``nodoubt.toml``, then defaults.

Unknown keys are errors with a suggestion, unknown ``NODOUBT_*`` variables too. ``${NAME}`` inside a URL or a driver
option is replaced from the environment, so that secrets need not stand in files. In the user and password of a URL the
value is percent-encoded on the way, so that a password may hold any character; elsewhere, and as the whole URL, it is
taken as it is.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nodoubt.engine.engine import Settings
from nodoubt.errors import ConfigError
from nodoubt.nodes.contract import PROBE_S_MAX
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.protocol.ids import check_name

Source = str | os.PathLike[str] | Mapping[str, Any]

_PREFIX = "NODOUBT_"
_SECRET = re.compile(r"\$\{(\w+)\}")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_TYPES = {bool: "boolean", int: "whole number", float: "number"}
_SETTINGS = {f.name: f for f in fields(Settings) if f.name != "watch"}
_NODE = {f.name: f for f in fields(NodeSettings)}
#: Retention must outlive every session that could still insert the same key, with a wide margin (recovery rule 7).
RETENTION_MARGIN = 10
#: And every probe: one that begins when half of it is over must come to its end, and nobody's clock is the best.
RETENTION_S_MIN = 3 * PROBE_S_MAX


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
    _known("setting", settings, (*_SETTINGS, "watch"))
    nodes = table.pop("nodes", None)
    if not isinstance(nodes, Mapping) or not nodes:
        raise ConfigError(
            "no nodes are configured", hint='add a table [nodes] with lines such as orders = "postgresql://…"'
        )
    table.update(_environment(nodes))
    table.update({key: value for key, value in settings.items() if value is not None})
    chosen = table.pop("domain", "nodoubt") if domain is None else domain
    watch = table.pop("watch", None)
    values = {key: _value(key, value, _SETTINGS[key].default) for key, value in table.items() if key in _SETTINGS}
    config = Config(
        domain=check_name("domain", str(chosen)),
        nodes={check_name("node", str(name)): _node(str(name), value) for name, value in nodes.items()},
        settings=Settings(**values, watch=watch),
    )
    _check(config)
    return config


def _environment(nodes: Mapping[Any, Any]) -> dict[str, str]:
    """The ``NODOUBT_*`` variables by key. One that the nodes name as a secret is theirs, not a key."""
    secrets = set(_SECRET.findall(repr(nodes)))
    found = {
        name.removeprefix(_PREFIX).lower(): value
        for name, value in os.environ.items()
        if name.startswith(_PREFIX) and name != f"{_PREFIX}CONFIG" and name not in secrets
    }
    known = ("domain", *_SETTINGS)
    for key in found:
        if key not in known:
            name = f"{_PREFIX}{key.upper()}"
            raise _unknown(f"variable {name!r}", name, [f"{_PREFIX}{key.upper()}" for key in ("config", *known)])
    return found


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
    options = table.get("options", {})
    if not isinstance(options, Mapping):
        raise ConfigError(f"{name}.options = {options!r} is not a table", hint="write options = { key = value }")
    expanded = {key: _expand(item) if isinstance(item, str) else item for key, item in options.items()}
    return NodeSettings(url=_expand(table["url"]), options=expanded, **known)


def _known(what: str, table: Iterable[str], known: Iterable[str]) -> None:
    names = list(known)
    for key in table:
        if key not in names:
            raise _unknown(f"{what} {key!r}", key, names)


def _unknown(what: str, key: str, known: Sequence[str]) -> ConfigError:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(sorted(known))}"
    return ConfigError(f"unknown {what}", hint=hint)


def _value(key: str, value: Any, default: Any) -> Any:
    """Read a value as the type of its default; the environment has texts. Numbers are finite and more than 0."""
    wrong = ConfigError(f"{key} = {value!r} is not a {_TYPES[type(default)]}")
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        try:
            return _BOOLEANS[str(value).lower()]
        except KeyError:
            raise wrong from None
    # An int() would cut 2.5 short, and a bool is a number to Python.
    if isinstance(value, bool) or (isinstance(default, int) and isinstance(value, float)):
        raise wrong
    try:
        number = type(default)(value)
    except (TypeError, ValueError):
        raise wrong from None
    if not math.isfinite(number):
        raise wrong
    if number <= 0:
        raise ConfigError(f"{key} = {value!r} must be more than 0")
    return number


def _expand(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        try:
            value = os.environ[match[1]]
        except KeyError:
            raise ConfigError(f"the configuration names ${{{match[1]}}}, which the environment does not have") from None
        return quote(value, safe="") if scheme < match.start() < login_end else value

    scheme = text.find("://")
    login_end = text.rfind("@") if scheme >= 0 else -1
    return _SECRET.sub(replace, text)


def _check(config: Config) -> None:
    longest_s = max(node.session_limit_s for node in config.nodes.values())
    if config.settings.retention_s < max(RETENTION_MARGIN * longest_s, RETENTION_S_MIN):
        raise ConfigError(
            f"retention_s = {config.settings.retention_s:g} is too short",
            hint=f"it must be at least {RETENTION_MARGIN} times session_limit_s ({longest_s:g}) and {RETENTION_S_MIN:g}",
        )
