"""What stands behind the last frame of a WAL file, in files that SQLite wrote. Commits that died: test_sqlite_crash."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from nodoubt.nodes.sqlite_wal import has_unseen

FILL = (
    "INSERT INTO t WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {})"
    " SELECT randomblob(500) FROM n"
)


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[apsw.Connection]:
    raw = apsw.Connection(str(tmp_path / "x.db"))
    raw.execute("PRAGMA journal_mode = WAL").fetchall()
    raw.execute("CREATE TABLE t (x)")
    yield raw
    raw.close()


def is_haunted(raw: apsw.Connection) -> bool:
    """Asked as a node asks: by another connection's count of frames."""
    asked = apsw.Connection(raw.filename)
    asked.execute("SELECT count(*) FROM t").fetchall()
    frames, _ = asked.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
    asked.close()
    return has_unseen(Path(raw.filename_wal), frames)


def test_nothing_stands_behind_commits(raw: apsw.Connection) -> None:
    for count in (1, 100):
        raw.execute(FILL.format(count))
        assert not is_haunted(raw)


def test_frames_of_an_earlier_round_count_for_nothing(raw: apsw.Connection) -> None:
    raw.execute(FILL.format(100))
    written = Path(raw.filename_wal).stat().st_size
    raw.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
    assert not is_haunted(raw)
    raw.execute(FILL.format(1))
    assert Path(raw.filename_wal).stat().st_size == written
    assert not is_haunted(raw)


def test_frames_of_a_transaction_that_was_undone_do_until_they_are_overwritten(raw: apsw.Connection) -> None:
    """They would not come back, having no commit behind them; to find out one would have to read them all."""
    raw.execute("PRAGMA cache_size = 10")
    raw.execute("BEGIN")
    raw.execute(FILL.format(1000))
    raw.execute("ROLLBACK")
    assert is_haunted(raw)
    raw.execute(FILL.format(1))
    assert not is_haunted(raw)


def test_a_missing_or_short_file_holds_nothing(tmp_path: Path) -> None:
    assert not has_unseen(tmp_path / "none", 0)
    (tmp_path / "short").write_bytes(b"\0" * 31)
    assert not has_unseen(tmp_path / "short", 0)
