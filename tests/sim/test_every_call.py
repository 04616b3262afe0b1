"""Every call, and every await, of scripted transactions fails once, in every mode; then two of them, at random."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from nodoubt.engine.engine import Engine
from nodoubt.errors import ConfigError
from nodoubt.nodes.pool import Pool
from nodoubt.sim.every_call import modes, pairs, replay, singles, story
from nodoubt.sim.fuse import Fuse, Strike
from nodoubt.sim.scripts import DEATHS, ENDS, KINDS, Script, play, scripts
from nodoubt.sim.seam import swapped

ALL = [script for branches in (1, 2, 3) for script in scripts(branches)]
#: Those of each change: all of one branch, each pair of kinds in the ways that differ most, and a few of three.
FEW_ENDS = {1: tuple(ENDS), 2: ("commit", "all promised", "decided"), 3: ("commit", "some promised")}
CHOSEN = [
    script
    for script in ALL
    if script.end in FEW_ENDS[len(script.kinds)]
    and len(set(script.kinds)) >= len(script.kinds) - (len(script.kinds) < 3)
]
PAIR = ("postgresql", "mariadb")
#: Mistakes, and a script that shows each. Others take two who race, and here nobody does.
CAUGHT = {
    "lost-is-abort": Script(PAIR, "commit"),
    "lost-is-commit": Script(PAIR, "commit"),
    "commit-before-decision": Script(PAIR, "commit"),
    "missing-is-done": Script(PAIR, "commit"),
    "failures-forgotten": Script(PAIR, "refuse"),
    "doubtful-pooled": Script(PAIR, "refuse"),
    "journal-unforced": Script(("postgresql", "sqlite"), "commit"),
}


@pytest.mark.parametrize("script", CHOSEN, ids=str)
def test_every_call_fails_once(script: Script) -> None:
    tally = singles(script)
    assert tally.failures == {}
    servers = sum(kind != "sqlite" for kind in script.kinds)
    assert tally.deepest["call"] >= 6 * len(script.kinds)
    assert tally.deepest["packet"] >= 6 * servers
    assert tally.deepest["await"] >= 5 * len(script.kinds)
    # Each was reached up to its last number, and missed once behind it.
    assert sum(tally.struck.values()) == tally.runs - len(list(modes(script)))
    reached = set(tally.struck)
    assert reached >= {f"{site}: {mode}" for site, mode in modes(script) if servers or site != "packet"}


def test_an_injection_that_is_broken_is_seen() -> None:
    assert "packet: refused" in singles(Script(("sqlite",), "raise")).unreached()
    with swapped(Fuse, "meets", lambda self, site, loop, what: ""):
        tally = singles(Script(("sqlite",), "raise"))
    assert tally.failures == {}
    assert len(tally.unreached()) == 11


def test_the_scripts_are_all_there_are() -> None:
    """Each kind as home, with every combination of others, ended in every way."""
    assert (
        len(ALL)
        == len(set(ALL))
        == 3 * len(ENDS) + 9 * (len(ENDS) + len(DEATHS) - 1) + 18 * (len(ENDS) + len(DEATHS) - 1)
    )
    assert {script.kinds for script in ALL if len(script.kinds) == 2} == set(itertools.product(KINDS, KINDS))
    assert len(CHOSEN) == 12 + 27 + 6


@pytest.mark.parametrize("seed", range(4))
def test_random_pairs(seed: int) -> None:
    tally = pairs(seed, 150)
    assert tally.failures == {}
    assert sum(tally.struck.values()) > 1.2 * tally.runs


def test_where_nothing_fails_the_caller_is_told_what_he_expects() -> None:
    for script in ALL:
        result = play(script)
        assert (result.violations, result.struck) == ((), ())
        assert result.told == ENDS.get(script.end, "")


@pytest.mark.parametrize(("name", "script"), CAUGHT.items())
def test_mistakes_are_caught(name: str, script: Script) -> None:
    assert singles(script, name).failures


async def nothing(*arguments: object) -> int:
    return 0


@pytest.mark.parametrize(
    ("owner", "name", "other", "said"),
    [
        (Pool, "discard", lambda self, session: session.abandon(), "pool of node"),
        (Pool, "close", nothing, "outlive their manager"),
        (Engine, "purge", nothing, "for ever in its table decision"),
    ],
)
def test_what_is_judged_afterwards(owner: type[Any], name: str, other: Callable[..., Any], said: str) -> None:
    """Pools that shrink, sessions that stay, rows that stay."""
    script = Script(PAIR, "commit")
    found: set[str] = set()
    with swapped(owner, name, other):
        for number in range(1, 30):
            found.update(play(script, [Strike("call", number, "error before")]).violations)
    assert any(said in violation for violation in found), found


def test_a_run_is_told_and_repeated() -> None:
    script, strikes = (
        Script(("mariadb", "sqlite"), "commit"),
        [Strike("call", 3, "error after"), Strike("await", 4, "cancelled")],
    )
    text = story(script, strikes)
    assert text == "commit mariadb+sqlite; call 3: error after; await 4: cancelled"
    result = replay(text)
    assert result.lines
    assert (result.violations, result.struck, result.told) == (
        play(script, strikes).violations,
        result.struck,
        result.told,
    )
    assert len(result.struck) == 2


@pytest.mark.parametrize(
    "text", ["commit", "commit oracle", "commit sqlite; call 1: cancelled", "commit sqlite; call x: crash"]
)
def test_no_run_of_that_name(text: str) -> None:
    with pytest.raises(ConfigError, match="no such run"):
        replay(text)
