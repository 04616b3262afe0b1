"""Our tables in a SQLite database, and what is read from its schema. Steps on one session; whoever calls opens transactions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nodoubt.journal.record import Record
from nodoubt.nodes.apsw_driver import UNCHECKED, Session, changed_tables
from nodoubt.nodes.contract import DecisionRow
from nodoubt.nodes.failures import StatementFailed
from nodoubt.nodes.identity import SCHEMA_VERSION, Identity
from nodoubt.nodes.texts import decision_row, literal, participants_json, unreadable_reason
from nodoubt.protocol.verdicts import HomeSays

TABLES = (
    """\
CREATE TABLE IF NOT EXISTS nodoubt_node (
    one integer PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    name text NOT NULL, domain text NOT NULL, id text NOT NULL, schema_version integer NOT NULL
) STRICT""",
    """\
CREATE TABLE IF NOT EXISTS nodoubt_decision (
    gid text PRIMARY KEY NOT NULL,
    decision text NOT NULL,
    participants text NOT NULL DEFAULT '{}',
    complete integer NOT NULL DEFAULT 0,
    decided_at real NOT NULL DEFAULT (unixepoch('subsec')),
    reason text NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID""",
    """\
CREATE INDEX IF NOT EXISTS nodoubt_decision_unfinished ON nodoubt_decision (gid)
    WHERE complete = 0 AND decision <> 'aborted'""",
    """\
CREATE TABLE IF NOT EXISTS nodoubt_branch (
    gid text NOT NULL, branch integer NOT NULL, PRIMARY KEY (gid, branch)
) STRICT, WITHOUT ROWID""",
)

_AGE = "max(0.0, unixepoch('subsec') - decided_at)"
_SELECT = f"SELECT gid, decision, participants, complete, {_AGE}, reason FROM main.nodoubt_decision"
_GIDS = "gid IN (SELECT value FROM json_each(?))"


def identity(session: Session) -> Identity | None:
    """The identity row; None where our tables were never made."""
    if not session.command("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = 'nodoubt_node'"):
        return None
    rows = session.command("SELECT name, domain, id, schema_version FROM main.nodoubt_node")
    return Identity(*rows[0]) if rows else None


def identify(name: str, domain: str, random: str) -> str:
    """The statement that writes the identity row; ``random`` is the expression that makes its id."""
    return (
        "INSERT INTO nodoubt_node (name, domain, id, schema_version)"
        f" VALUES ({literal(name)}, {literal(domain)}, {random}, {SCHEMA_VERSION})"
    )


# Evidence


def leave_evidence(session: Session, gid: str, branch: int) -> None:
    """Write the row that tells that a branch was applied."""
    session.command("INSERT INTO main.nodoubt_branch (gid, branch) VALUES (?, ?)", gid, branch)


def has_evidence(session: Session, gid: str, branch: int) -> bool:
    """Whether a branch was applied."""
    return bool(session.command("SELECT 1 FROM main.nodoubt_branch WHERE gid = ? AND branch = ?", gid, branch))


def applied(session: Session, branches: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
    """Which of these were applied."""
    gids = json.dumps(sorted({gid for gid, _ in branches}))
    rows = session.command(f"SELECT gid, branch FROM main.nodoubt_branch WHERE {_GIDS}", gids)
    return {(gid, branch) for gid, branch in rows} & set(branches)


def delete_evidence(session: Session, gids: Sequence[str]) -> None:
    """Forget that these were applied."""
    session.command(f"DELETE FROM main.nodoubt_branch WHERE {_GIDS}", json.dumps(list(gids)))


# Decisions


def decide(session: Session, gid: str, participants: Mapping[int, str]) -> None:
    """Insert the decision."""
    session.command(
        "INSERT INTO main.nodoubt_decision (gid, decision, participants, complete) VALUES (?, 'committed', ?, ?)",
        gid,
        participants_json(participants),
        0 if participants else 1,
    )


def is_decided(session: Session, gid: str) -> bool:
    """Whether a committed decision stands."""
    return bool(session.command("SELECT 1 FROM main.nodoubt_decision WHERE gid = ? AND decision = 'committed'", gid))


def decisions(session: Session, gids: Sequence[str]) -> Mapping[str, DecisionRow]:
    """Read decisions."""
    rows = session.command(f"{_SELECT} WHERE {_GIDS}", json.dumps(list(gids)))
    return {row[0]: decision_row(*row) for row in rows}


def insert_tombstones(session: Session, gids: Sequence[str]) -> Mapping[str, HomeSays]:
    """Insert what is missing and read all."""
    fresh = session.command(
        "INSERT INTO main.nodoubt_decision (gid, decision) SELECT value, 'aborted' FROM json_each(?) WHERE true"
        " ON CONFLICT DO NOTHING RETURNING gid",
        json.dumps(sorted(gids)),
    )
    answers = {gid: row.says for gid, row in decisions(session, gids).items()}
    return answers | {gid: HomeSays.FRESH for (gid,) in fresh}


def unfinished(session: Session, limit: int) -> Sequence[DecisionRow]:
    """Read decisions that are neither complete nor aborted, oldest first; those that cannot be read, too."""
    rows = session.command(f"{_SELECT} WHERE complete = 0 AND decision <> 'aborted' ORDER BY gid LIMIT ?", limit)
    return [decision_row(*row) for row in rows]


def complete(session: Session, gids: Sequence[str]) -> None:
    """Mark decisions complete."""
    session.command(
        f"UPDATE main.nodoubt_decision SET complete = 1, decided_at = unixepoch('subsec') WHERE complete = 0 AND {_GIDS}",
        json.dumps(list(gids)),
    )


def old_evidence(session: Session, before_gid: str, limit: int) -> Sequence[str]:
    """The gids of the evidence that is older than a gid, youngest first."""
    rows = session.command(
        "SELECT gid FROM main.nodoubt_branch WHERE gid < ? ORDER BY gid DESC LIMIT ?", before_gid, limit
    )
    return [gid for (gid,) in rows]


def purge(session: Session, before_gid: str, retention_s: float, limit: int) -> int:
    """Delete old complete rows and tombstones; returns how many."""
    rows = session.command(
        "DELETE FROM main.nodoubt_decision WHERE gid IN (SELECT gid FROM main.nodoubt_decision"
        " WHERE gid < ? AND (complete = 1 OR decision = 'aborted') AND decided_at < unixepoch('subsec') - ?"
        " ORDER BY gid LIMIT ?) RETURNING 1",
        before_gid,
        retention_s,
        limit,
    )
    return len(rows)


def resolve(session: Session, gid: str, *, commit: bool, reason: str) -> None:
    """Insert a decision by a person's order unless one stands that can be read."""
    decision = "committed" if commit else "aborted"
    found = decisions(session, [gid]).get(gid)
    if found is not None and found.raw is not None:
        session.command(
            "UPDATE main.nodoubt_decision SET decision = ?, participants = ?, reason = ? WHERE gid = ?",
            decision,
            participants_json(found.participants),
            unreadable_reason(reason, found.raw),
            gid,
        )
        return
    session.command(
        "INSERT INTO main.nodoubt_decision (gid, decision, reason) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        gid,
        decision,
        reason,
    )


# The user's schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What of a schema a changeset depends on: it carries rows by their primary key, and skips those whose key is NULL."""

    schema_version: int
    #: Tables with a declared key; views, too: they are written by triggers, which are asked about on their own.
    carried: frozenset[str]
    #: table -> columns of its key that may be NULL
    nullable: Mapping[str, tuple[str, ...]]

    def null_query(self, table: str) -> str:
        """A query for one row of ``table`` whose key is NULL, or "" if there cannot be one."""
        columns = self.nullable.get(table, ())
        where = " OR ".join(f"{_quoted(column)} IS NULL" for column in columns)
        return f"SELECT 1 FROM main.{_quoted(table)} WHERE {where} LIMIT 1" if where else ""


def keys(session: Session, known: Keys | None) -> Keys:
    """Read the schema, unless it is still the known one."""
    ((version,),) = session.command("PRAGMA main.schema_version")
    if known is not None and known.schema_version == version:
        return known
    rows = session.command(
        'SELECT l.name, l.type, c.name, c."notnull", c.type FROM pragma_table_list AS l'
        " LEFT JOIN pragma_table_xinfo(l.name, 'main') AS c ON c.pk > 0"
        " WHERE l.schema = 'main' AND (l.type = 'view' OR l.type = 'table' AND c.pk > 0)"
    )
    nullable: dict[str, tuple[str, ...]] = {}
    for table, _, column, not_null, _ in rows:
        if column is not None and not not_null:
            nullable[table] = (*nullable.get(table, ()), column)
    return Keys(schema_version=version, carried=frozenset(row[0] for row in rows), nullable=nullable)


def columns(session: Session, changeset: bytes) -> Mapping[str, Sequence[str]]:
    """The names of the columns of a changeset's tables, in the order in which it has their values."""
    return {table: [name for name, _ in _columns(session, table)] for table in changed_tables(changeset)}


def _columns(session: Session, table: str) -> list[tuple[str, bool]]:
    """The name of each column, and whether it is of the primary key."""
    found = session.command("SELECT name, pk > 0 FROM pragma_table_info(?, 'main') ORDER BY cid", table)
    return [(name, bool(is_key)) for name, is_key in found]


def sequences(session: Session, tables: frozenset[str]) -> Mapping[str, int]:
    """The AUTOINCREMENT counters of some tables: a changeset holds the rows, but not that a deleted one had a number."""
    if not session.command("SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_sequence'"):
        return {}
    rows = session.command("SELECT name, seq FROM main.sqlite_sequence")
    return {name: seq for name, seq in rows if name in tables and isinstance(seq, int)}


def redo(session: Session, record: Record) -> None:
    """Do again what a journalled branch did, with its evidence; the transaction stays open. Raises StatementFailed.

    A changeset that meets a missing or changed table would skip it in silence, and one whose columns were put into another
    order would get its values in the wrong ones: that is a failure, too.
    """
    for table, key in changed_tables(record.changeset).items():
        found, names = _columns(session, table), record.columns.get(table, ())
        is_same = [name for name, _ in found[: len(names)]] == list(names)
        if not names or not is_same or {number for number, (_, is_key) in enumerate(found) if is_key} != key:
            raise StatementFailed("SQLITE_SCHEMA", f"table {table!r} was dropped or changed since the branch prepared")
    session.apply(record.changeset)
    for table, reached in record.sequences.items():
        session.command("UPDATE main.sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", reached, table)
        session.command(
            "INSERT INTO main.sqlite_sequence (name, seq) SELECT ?, ?"
            " WHERE NOT EXISTS (SELECT 1 FROM main.sqlite_sequence WHERE name = ?)",
            table,
            reached,
            table,
        )
    leave_evidence(session, record.branch.gid, record.branch.branch)


def compile_redo(session: Session, record: Record) -> None:
    """Compile, as :func:`redo` would, what compares and writes all columns and indexes. Raises StatementFailed."""
    session.command(UNCHECKED)
    for table, names in record.columns.items():
        same = " AND ".join(f"{_quoted(name)} IS ''" for name in names)
        session.command(f"EXPLAIN INSERT INTO main.{_quoted(table)} DEFAULT VALUES")
        session.command(f"EXPLAIN SELECT 1 FROM main.{_quoted(table)} WHERE {same}")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
