"""The journal's file: what each error of the operating system means for the promise."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodoubt.journal import files as f
from nodoubt.journal.files import Files, Journal, NotWritten, PerhapsWritten
from nodoubt.journal.record import JournalDamaged, Record
from nodoubt.protocol.ids import BranchId, new_gid


def record(number: int = 1, changeset: bytes = b"changes") -> Record:
    gid = new_gid(1_700_000_000_000 + number, bytes(10))
    return Record(branch=BranchId(domain="shop", gid=gid, branch=number, home="orders"), pid=1, changeset=changeset)


class Failing(Files):
    """Notes every call, and fails one of them before or after it is done."""

    def __init__(self, call: str = "", code: int = errno.EIO, *, done: bool = False) -> None:
        self.calls: list[str] = []
        self.failing = call
        self._code = code
        self._done = done

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or name in ("calls", "failing"):
            return found
        return self._noted(name, found)

    def _noted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if name == self.failing and not self._done:
                raise OSError(self._code, os.strerror(self._code))
            result = real(*arguments)
            if name == self.failing:
                raise OSError(self._code, os.strerror(self._code))
            return result

        return call


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    path.touch(0o640)
    path.chmod(0o640)
    return path


def test_a_promise_is_forced_before_it_is_named_and_its_name_after(database: Path) -> None:
    files = Failing()
    journal = Journal(database, files)
    assert journal.read() is None
    journal.write(record())
    assert files.calls == ["read", "status", "create", "give", "write", "fsync", "close", "rename", "fsync_folder"]
    assert journal.read() == record()
    assert journal.path.name == "shop.db-nodoubt"
    assert journal.path.stat().st_mode & 0o777 == 0o640, "who may read the database may read its journal, nobody else"


def test_a_new_promise_takes_the_place_of_one_that_is_done_with(database: Path) -> None:
    journal = Journal(database)
    journal.write(record(1))
    journal.write(record(2))
    assert journal.read() == record(2)


def test_a_disk_that_takes_a_few_bytes_at_a_time(database: Path) -> None:
    class Slow(Files):
        def write(self, descriptor: int, data: memoryview) -> int:
            return super().write(descriptor, data[:7])

    journal = Journal(database, Slow())
    journal.write(record())
    assert journal.read() == record()


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("call", ["create", "write", "fsync", "close"])
def test_an_error_before_the_rename_means_not_written(database: Path, call: str, code: int, done: bool) -> None:
    files = Failing(call, code, done=done)
    journal = Journal(database, files)
    with pytest.raises(NotWritten) as caught:
        journal.write(record())
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == code
    assert files.calls.count("fsync") <= 1, "an fsync is never repeated"
    assert "rename" not in files.calls
    assert journal.read() is None
    assert list(database.parent.iterdir()) == [database]


def test_a_rename_that_did_not_happen_means_not_written(database: Path) -> None:
    journal = Journal(database, Failing("rename"))
    with pytest.raises(NotWritten):
        journal.write(record())
    assert list(database.parent.iterdir()) == [database]


@pytest.mark.parametrize(("call", "done"), [("rename", True), ("fsync_folder", False), ("fsync_folder", True)])
def test_an_error_after_the_rename_means_perhaps(database: Path, call: str, done: bool) -> None:
    journal = Journal(database, Failing(call, done=done))
    with pytest.raises(PerhapsWritten):
        journal.write(record())


@pytest.mark.parametrize("call", ["create", "write", "fsync"])
def test_what_was_there_before_stays_when_a_new_one_is_not_written(database: Path, call: str) -> None:
    Journal(database).write(record(1))
    with pytest.raises(NotWritten):
        Journal(database, Failing(call)).write(record(2))
    assert Journal(database).read() == record(1)


def test_what_a_killed_writer_left_was_never_promised(database: Path) -> None:
    left = database.with_name(database.name + f.TEMPORARY_SUFFIX)
    left.write_bytes(b"half a rec")
    journal = Journal(database)
    assert journal.read() is None
    journal.write(record())
    assert journal.read() == record()
    left.write_bytes(b"again")
    journal.drop_temporary()
    assert not left.exists()
    journal.drop()
    assert list(database.parent.iterdir()) == [database]


@pytest.mark.parametrize("content", [b"", b"x", b"nodoubt\n", bytes(500)])
def test_a_file_that_is_no_record_is_damage_and_names_itself(database: Path, content: bytes) -> None:
    journal = Journal(database)
    journal.path.write_bytes(content)
    with pytest.raises(JournalDamaged, match=r"shop\.db-nodoubt"):
        journal.read()
    assert journal.path.read_bytes() == content


def test_a_journal_that_cannot_be_read_is_damage_and_not_absence(database: Path) -> None:
    journal = Journal(database, Failing("read", errno.EACCES))
    with pytest.raises(JournalDamaged, match="Permission denied"):
        journal.read()
    journal.path.mkdir()
    with pytest.raises(JournalDamaged):
        Journal(database).read()


def test_more_than_the_longest_record_is_damage(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(database)
    journal.write(record())
    monkeypatch.setattr(f, "RECORD_BYTES_MAX", 20)
    with pytest.raises(JournalDamaged):
        journal.read()


def test_reading_takes_the_memory_of_the_record_and_not_of_the_longest(database: Path) -> None:
    """A machine that promises no more memory than it has would not give that."""
    journal = Journal(database)
    journal.write(record())
    tracemalloc.start()
    try:
        assert journal.read() == record()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_takes_no_journal_is_found_beforehand(database: Path, code: int) -> None:
    with pytest.raises(OSError, match=os.strerror(code)):
        Journal(database, Failing("create", code)).check_writable("x")
    Journal(database).check_writable("x")
    assert list(database.parent.iterdir()) == [database]


def test_the_age_of_a_journal(database: Path) -> None:
    journal = Journal(database)
    assert journal.written_at_s() is None
    journal.write(record())
    os.utime(journal.path, (1000, 1000))
    assert journal.written_at_s() == 1000


def test_a_symbolic_link_is_not_written_through(database: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    database.with_name(database.name + f.TEMPORARY_SUFFIX).symlink_to(victim)
    with pytest.raises(NotWritten):
        Journal(database).write(record())
    assert victim.read_text() == "precious"
