"""Names: what is spelt is read back to the letter, and nothing else is taken for ours."""

from __future__ import annotations

import os
import random
import string
import uuid

import pytest

from nodoubt.errors import ConfigError
from nodoubt.protocol.ids import (
    BRANCHES_MAX,
    BranchId,
    check_name,
    gid_at,
    gid_unix_ms,
    is_gid,
    new_gid,
    parse_text,
    parse_xa,
    token,
)

LONGEST = "n" * 31


def test_a_gid_is_a_uuid_version_7() -> None:
    gid = new_gid(1_700_000_000_123, b"\xff" * 10)
    number = 0
    for character in gid:
        number = number * 32 + "0123456789abcdefghjkmnpqrstvwxyz".index(character)
    as_uuid = uuid.UUID(int=number)
    assert (as_uuid.version, as_uuid.variant) == (7, uuid.RFC_4122)
    assert as_uuid.int >> 80 == 1_700_000_000_123 == gid_unix_ms(gid)
    assert is_gid(gid)


def test_gids_sort_by_time_and_gid_at_is_their_lower_bound() -> None:
    times = sorted(random.sample(range(2**47), 200))
    gids = [new_gid(time, os.urandom(10)) for time in times]
    assert gids == sorted(gids)
    assert all(gid_at(time) <= gid < gid_at(time + 1) for time, gid in zip(times, gids, strict=True))


def test_gids_of_one_millisecond_differ() -> None:
    assert len({new_gid(1, os.urandom(10)) for _ in range(10_000)}) == 10_000


def branch_ids() -> list[BranchId]:
    gid = new_gid(1, os.urandom(10))
    return [
        BranchId(domain="shop", gid=gid, branch=0, home="orders"),
        BranchId(domain=LONGEST, gid=gid, branch=BRANCHES_MAX - 1, home=LONGEST, session=token(b"\xff" * 5)),
    ]


@pytest.mark.parametrize("branch", branch_ids(), ids=["short", "longest"])
def test_branch_ids_fit_and_are_read_back(branch: BranchId) -> None:
    gtrid, bqual = branch.xa()
    # PostgreSQL: GIDSIZE 200 with the terminating zero; X/Open XA: MAXGTRIDSIZE and MAXBQUALSIZE are 64.
    assert len(branch.text()) <= 199
    assert len(gtrid) <= 64
    assert len(bqual) <= 64
    assert parse_xa(gtrid, bqual) == branch
    text_only = BranchId(domain=branch.domain, gid=branch.gid, branch=branch.branch, home=branch.home)
    assert parse_text(branch.text()) == text_only


def test_no_damaged_id_is_taken_for_ours() -> None:
    branch = branch_ids()[0]
    text = branch.text()
    taken = 0
    for position in range(len(text)):
        assert parse_text(text[:position]) != branch
        for character in ".A é'" + string.digits[:2]:
            damaged = text[:position] + character + text[position + 1 :]
            read = parse_text(damaged)
            assert read is None or read.text() == damaged
            taken += read is not None
    assert taken, "some damage makes another valid id: those must read as what they say"


@pytest.mark.parametrize(
    "foreign", ["", "nd1", "dtm-123", "nd2.shop.x.0.orders", "nd1.shop.gid.0.orders", "....", "a.b.c.d.e"]
)
def test_foreign_ids_are_left_alone(foreign: str) -> None:
    assert parse_text(foreign) is None
    assert parse_xa(foreign, "0.orders.") is None


@pytest.mark.parametrize("name", ["", "A", "1a", "a" * 32, "a.b", "a b", "a'b", "é", "a\n"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="not a valid name"):
        check_name("node", name)
