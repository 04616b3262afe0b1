"""What nodoubt asks of a database in memory: our tables, and the steps that each text of the dialect stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from nodoubt.nodes.contract import Isolation
from nodoubt.nodes.memory_database import MemoryDatabase
from nodoubt.protocol.ids import parse_text

DECISION = "nodoubt.decision"
BRANCH = "nodoubt.branch"
NODE = "nodoubt.node"

Steps = tuple[tuple[Any, ...], ...]


def _row(database: MemoryDatabase, decision: str, participants: str, *, complete: bool, reason: str = "") -> list[Any]:
    """A decision row: what :func:`nodoubt.nodes.texts.decision_row` reads, with the time of decision in place of the age."""
    return [decision, participants, complete, database.clock(), reason]


def _begin(_: MemoryDatabase, mode: str, level: str = "", lock_wait_s: str = "0") -> Steps:
    begin = ("begin", mode == "read-only", float(lock_wait_s))
    return (begin, ("lock_reads",)) if level == Isolation.SERIALIZABLE else (begin,)


def _prepare(database: MemoryDatabase, name: str) -> Steps:
    branch = parse_text(name)
    key = f"{branch.gid} {branch.branch}" if branch else name
    return ("put", BRANCH, key, True), ("prepare", name)


def _alone(*steps: tuple[Any, ...]) -> Steps:
    return ("begin",), *steps, ("commit",)


def _change(change: Callable[[dict[str, Any]], Any], table: str) -> Steps:
    return (("update", table, change),)


def _complete(database: MemoryDatabase, *gids: str) -> Steps:
    def change(rows: dict[str, Any]) -> None:
        now_s = database.clock()
        rows.update({g: [*rows[g][:2], True, now_s, rows[g][4]] for g in gids if g in rows and not rows[g][2]})

    return _change(change, DECISION)


def _old_evidence(_: MemoryDatabase, before_gid: str, limit: str) -> Steps:
    def select(rows: dict[str, Any]) -> list[tuple[str]]:
        gids = sorted((key.split(" ")[0] for key in rows), reverse=True)
        return [(gid,) for gid in gids if gid < before_gid][: int(limit)]

    return _change(select, BRANCH)


def _drop_evidence(database: MemoryDatabase, *gids: str) -> Steps:
    def change(rows: dict[str, Any]) -> None:
        for key in [key for key in rows if key.split(" ")[0] in gids]:
            del rows[key]

    return _change(change, BRANCH)


def _purge(database: MemoryDatabase, before_gid: str, retention_s: str, limit: str) -> Steps:
    def change(rows: dict[str, Any]) -> int:
        decided_before_s = database.clock() - float(retention_s)
        old = [
            gid
            for gid, (decision, _, complete, at_s, _) in sorted(rows.items())
            if gid < before_gid and (complete or decision == "aborted") and at_s < decided_before_s
        ][: int(limit)]
        for gid in old:
            del rows[gid]
        return len(old)

    return _change(change, DECISION)


def _replace(
    database: MemoryDatabase, gid: str, became: str, bound: str, old: str, participants: str, *why: str
) -> Steps:
    def change(rows: dict[str, Any]) -> None:
        row = rows.get(gid)
        if row is not None and row[:2] == [unquote(old), unquote(participants)]:
            rows[gid] = [became, bound, False, row[3], " ".join(why)]

    return _change(change, DECISION)


#: name of a text -> the steps that its words stand for.
PACKETS: Mapping[str, Callable[..., Steps]] = {
    "begin": _begin,
    "look": lambda _, *export: (("share", int(*export)) if export else ("snapshot",),),
    "glance": lambda _: (("snapshot",), ("glance",)),
    "still": lambda _: (("still",),),
    "export": lambda _: (("export",),),
    "close-gate": lambda _, wait_s, idle_s: (("begin", True, float(wait_s)), ("freeze", DECISION, float(idle_s))),
    "reopen-gate": lambda _: (("commit",),),
    "release": lambda _: (("commit",),),
    "undo": lambda _: (("undo",),),
    "prepare": _prepare,
    "decide": lambda db, gid, participants: (
        ("insert", DECISION, gid, _row(db, "committed", participants, complete=participants == "{}")),
        ("commit",),
    ),
    "finish": lambda _, name, decision: (("finish", name, decision == "committed"),),
    "now": lambda _: (("now",),),
    "list": lambda _: (("list",),),
    "rows": lambda _, table: (("rows", table),),
    "end": lambda _, handle: (("end", int(handle)),),
    "probe": lambda db, until_s, *gids: _alone(
        ("require_before", float(until_s)),
        *(("insert_missing", DECISION, gid, _row(db, "aborted", "{}", complete=False)) for gid in gids),
    ),
    "resolve": lambda db, gid, decision, *reason: _alone(
        ("insert_missing", DECISION, gid, _row(db, decision, "{}", complete=False, reason=" ".join(reason)))
    ),
    "replace": _replace,
    "complete": _complete,
    "drop-evidence": _drop_evidence,
    "old-evidence": _old_evidence,
    "purge": _purge,
    "install": lambda _, *identity: _alone(("insert_missing", NODE, "identity", identity)),
}
