"""MariaDB and MySQL: how a branch's id is spelt in XA statements, and read from what XA RECOVER lists."""

from __future__ import annotations

from nodoubt.nodes.dialect import Row
from nodoubt.protocol.ids import XA_FORMAT, BranchId, parse_xa


def spelt(branch: BranchId) -> str:
    """A branch's id as XA statements want it; its parts hold nothing that needs quoting."""
    gtrid, bqual = branch.xa()
    return f"'{gtrid}','{bqual}',{XA_FORMAT}"


def branch_of(row: Row) -> BranchId | None:
    """Read a row of XA RECOVER; None if the id is not ours."""
    format_id, gtrid_length, bqual_length, data = row
    raw = bytes.fromhex(data.removeprefix("0x")) if isinstance(data, str) else bytes(data)
    if format_id != XA_FORMAT or len(raw) != gtrid_length + bqual_length or not raw.isascii():
        return None
    text = raw.decode("ascii")
    return parse_xa(text[:gtrid_length], text[gtrid_length:])
