"""The table is whole and its page is fresh."""

from __future__ import annotations

from tests.isolation.expected import FILE, load, text
from tests.isolation.grounds import GROUNDS
from tests.isolation.page import PAGE, page
from tests.isolation.promises import FORBIDS, Asked
from tests.isolation.scripts import SCRIPTS
from tests.isolation.verdict import Verdict

TABLE = load()


def test_the_table_has_every_script_on_every_ground() -> None:
    assert {title: [ground.level for ground in grounds] for title, grounds in GROUNDS.items()} == {
        title: list(by_level) for title, by_level in TABLE.items()
    }
    assert {tuple(words) for by_level in TABLE.values() for words in by_level.values()} == {tuple(SCRIPTS)}
    assert text(TABLE) == FILE.read_text("utf-8")


def found(*levels: Asked) -> set[str]:
    """The scripts whose anomaly happens somewhere at these levels."""
    return {
        name
        for title, grounds in GROUNDS.items()
        for ground in grounds
        for name, word in TABLE[title][ground.level].items()
        if ground.asked in levels and word is Verdict.OCCURS
    }


def test_every_anomaly_is_found_somewhere() -> None:
    """All but G0, which no level allows, and G1c where no node is at READ UNCOMMITTED."""
    assert found(Asked.ATOMIC) == SCRIPTS.keys() - {"g0", "g0-opposite"}
    assert found(Asked.VIEWS) == SCRIPTS.keys() - FORBIDS[Asked.VIEWS] - {"g1c"}
    assert found(Asked.SNAPSHOT) == SCRIPTS.keys() - FORBIDS[Asked.SNAPSHOT]
    assert found(Asked.SERIALIZABLE, Asked.KEYS) == set()


def test_one_mix_alone_has_no_anomaly_by_itself() -> None:
    """Where every node reads with locks."""
    harmless = {
        (title, ground.level)
        for title, grounds in GROUNDS.items()
        for ground in grounds
        if ground.asked is Asked.ATOMIC
        and not {Verdict.OCCURS, Verdict.OTHER} & set(TABLE[title][ground.level].values())
    }
    assert harmless == {("MariaDB + MariaDB", "SERIALIZABLE")}


def test_the_page_is_fresh() -> None:
    assert page(TABLE) == PAGE.read_text("utf-8"), "docs/isolation.md is stale: run `make docs`"
