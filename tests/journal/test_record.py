"""The journal's record: whole, or damage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodoubt.journal import record as r
from nodoubt.journal.record import JournalDamaged, Record, RecordTooLarge, decode, encode
from nodoubt.protocol.ids import BranchId, new_gid

BRANCH = BranchId(domain="shop", gid=new_gid(1_700_000_000_000, bytes(10)), branch=3, home="orders")
RECORD = Record(
    branch=BRANCH,
    pid=4242,
    changeset=b"T\x02\x01\x00t\x00" + bytes(range(40)),
    columns={"tä": ["k", 'a "b"'], "t": []},
    sequences={"tä": 2**40},
)


@pytest.mark.parametrize("changeset", [b"", b"\0", bytes(100_000)])
def test_what_is_written_is_read(changeset: bytes) -> None:
    record = replace(RECORD, pid=0xFFFFFFFF, changeset=changeset)
    assert decode(encode(record)) == record


def test_damage_of_any_bit_of_any_byte_is_found() -> None:
    data = encode(RECORD)
    for place in range(len(data)):
        for bit in range(8):
            broken = bytearray(data)
            broken[place] ^= 1 << bit
            with pytest.raises(JournalDamaged):
                decode(bytes(broken))


def test_truncation_at_any_length_is_found() -> None:
    data = encode(RECORD)
    for length in range(len(data)):
        with pytest.raises(JournalDamaged):
            decode(data[:length])


@pytest.mark.parametrize("more", [b"\0", b"x" * 5000])
def test_a_byte_too_many_is_damage(more: bytes) -> None:
    with pytest.raises(JournalDamaged):
        decode(encode(RECORD) + more)


def test_zeros_as_after_a_power_loss_are_damage() -> None:
    with pytest.raises(JournalDamaged):
        decode(bytes(len(encode(RECORD))))


def test_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(r, "VERSION", 3)
        newer = encode(RECORD)
    with pytest.raises(JournalDamaged, match="version 3, this nodoubt reads version 2"):
        decode(newer)


@pytest.mark.parametrize("bad", ["nd1.shop.x.0.orders", "someone else's"])
def test_a_branch_id_that_is_none_of_ours_is_damage(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(BranchId, "text", lambda self: bad)
        data = encode(RECORD)
    with pytest.raises(JournalDamaged, match="branch id"):
        decode(data)


@pytest.mark.parametrize("limit", ["BRANCH_BYTES_MAX", "TABLES_BYTES_MAX", "CHANGESET_BYTES_MAX"])
def test_what_is_too_large_is_refused_before_it_is_written(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(r, limit, 3)
    with pytest.raises(RecordTooLarge, match="more than 3"):
        encode(RECORD)
