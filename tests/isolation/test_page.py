"""The table is whole and its page is fresh."""

from __future__ import annotations

from tests.isolation.expected import FILE, load, text
from tests.isolation.grounds import GROUNDS
from tests.isolation.page import PAGE, page
from tests.isolation.scripts import SCRIPTS
from tests.isolation.verdict import Verdict

TABLE = load()


def test_the_table_has_every_script_on_every_ground() -> None:
    assert {title: [ground.level for ground in grounds] for title, grounds in GROUNDS.items()} == {
        title: list(by_level) for title, by_level in TABLE.items()
    }
    assert {tuple(words) for by_level in TABLE.values() for words in by_level.values()} == {tuple(SCRIPTS)}
    assert text(TABLE) == FILE.read_text("utf-8")


def test_every_anomaly_is_found_somewhere() -> None:
    """All but G0, which no level allows."""
    found = {
        name
        for by_level in TABLE.values()
        for words in by_level.values()
        for name, word in words.items()
        if word is Verdict.OCCURS
    }
    assert found == SCRIPTS.keys() - {"g0", "g0-opposite"}


def test_one_mix_alone_has_no_anomaly() -> None:
    """As the page says: where every node reads with locks."""
    harmless = {
        (title, level)
        for title, by_level in TABLE.items()
        for level, words in by_level.items()
        if not {Verdict.OCCURS, Verdict.OTHER} & set(words.values())
    }
    assert harmless == {("MariaDB + MariaDB", "SERIALIZABLE")}


def test_the_page_is_fresh() -> None:
    assert page(TABLE) == PAGE.read_text("utf-8"), "docs/isolation.md is stale: run `make docs`"
