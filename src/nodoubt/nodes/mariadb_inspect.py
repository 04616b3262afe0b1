"""What ``nodoubt doctor`` looks at on MariaDB and MySQL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nodoubt.errors import ConfigError
from nodoubt.nodes.contract import Finding, Isolation
from nodoubt.nodes.dialect import Session
from nodoubt.nodes.failures import StatementFailed
from nodoubt.nodes.findings import identity_finding
from nodoubt.nodes.mariadb_isolation import SNAPSHOT_ISOLATION
from nodoubt.nodes.mariadb_tables import ALL_ROWS, signed_identity

if TYPE_CHECKING:
    from nodoubt.nodes.mariadb import MariaDB

_MARIADB_MIN = (10, 5)
_MYSQL_MIN = (8, 0)
#: Before that, what XA PREPARE and XA COMMIT answered could be gone after a crash, where there is a binary log.
_MYSQL_LOGS_MIN = (8, 0, 30)
#: What a user of MySQL needs to list prepared branches.
MAY_LIST = "GRANT XA_RECOVER_ADMIN ON *.* TO this user"
_VARIABLES = f"'innodb_flush_log_at_trx_commit','log_bin','sync_binlog','{SNAPSHOT_ISOLATION}'"
#: A key that no gid can be.
_NOBODY = "'nobody'"
#: Our own rows that are about to be deleted are of no gid.
_EVIDENCE = f"SELECT gid, branch FROM nodoubt_branch WHERE gid NOT IN ('', {_NOBODY})"
#: Nobody takes so long from writing evidence to being listed, in one packet.
UNLISTED_S = 1.0


def too_old(version: str, *, logs: bool) -> str | None:
    """Why a server of this ``VERSION()``, with a binary log or without, cannot be a node; None if it can."""
    found = tuple(map(int, re.findall(r"\d+", version)[:3]))
    kind, least = ("MariaDB", _MARIADB_MIN) if "mariadb" in version.lower() else ("MySQL", _MYSQL_MIN)
    if found < least:
        return f"{kind} {version} is older than {least[0]}.{least[1]}: it rolls prepared branches back at disconnect"
    if kind == "MySQL" and logs and found < _MYSQL_LOGS_MIN:
        return f"MySQL {version} is older than 8.0.30 and has a binary log: a crash can lose what it prepared and committed"
    return None


async def may_list(session: Session, *, is_mariadb: bool) -> None:
    """Raise ConfigError for a user of MySQL who may not list branches, and so never settles anything."""
    if not is_mariadb:
        try:
            await session.query("XA RECOVER CONVERT XID")
        except StatementFailed as failure:
            raise ConfigError(f"this user cannot list prepared branches: {failure}", hint=MAY_LIST) from failure


async def inspect(dialect: MariaDB, session: Session, name: str, domain: str) -> Sequence[Finding]:
    """Look at one server; raises only StatementFailed and ConnectionLost."""
    ((version, logs),) = await session.query("SELECT VERSION(), @@log_bin")
    if (why := too_old(version, logs=bool(int(logs)))) is not None:
        return [Finding(check="version", level="error", text=why, fix="upgrade the server")]
    await dialect.explore(session)
    findings = [Finding(check="version", level="ok", text=version), await durable(dialect, session)]
    identity, signed = await signed_identity(session, "")
    if identity is None:
        # All else asks our tables.
        return [*findings, identity_finding(identity, name, domain)]
    return [
        *findings,
        *await _prepared(dialect, session, domain),
        *await _engines(session),
        identity_finding(identity, name, domain),
        *_signed(signed),
        await _privileges(session),
        *_isolation(dialect),
        *await _gate(session),
        # Last, so that whoever compares it with his own clock does so at once.
        await _clock(dialect, session),
    ]


def _signed(signed: bool) -> Sequence[Finding]:
    if signed:
        return []
    return [
        Finding(
            check="identity",
            level="warning",
            text="an earlier version made its tables: new connections do not notice when its name leads to another database",
            fix="run `nodoubt init`",
        )
    ]


def _isolation(dialect: MariaDB) -> Sequence[Finding]:
    refusal = dialect.refusal((), Isolation.SNAPSHOT, read_only=False)
    return [Finding(check="isolation", level="warning", text=refusal)] if refusal else []


async def _gate(session: Session) -> Sequence[Finding]:
    """The privilege alone: this lock keeps nobody waiting."""
    try:
        await session.command("LOCK TABLES nodoubt_node READ;UNLOCK TABLES")
    except StatementFailed as failure:
        return [
            Finding(
                check="privileges",
                level="warning",
                text=f"this user cannot open snapshots of several nodes: {failure}",
                fix="GRANT LOCK TABLES on the database to this user",
            )
        ]
    return []


async def _clock(dialect: MariaDB, session: Session) -> Finding:
    ((now_s,),) = await session.query(dialect.clock)
    return Finding(check="clock", level="ok", text="agrees with the clock of this machine", fact=float(now_s))


async def durable(dialect: MariaDB, session: Session) -> Finding:
    """Whether a commit outlives the machine; the dialect learns what else the answer says."""
    shown = await session.query(f"SET SESSION {ALL_ROWS};SHOW VARIABLES WHERE variable_name IN ({_VARIABLES})")
    variables: dict[str, str] = dict(shown)
    dialect.snapshot_isolation = SNAPSHOT_ISOLATION in variables
    flush, sync_binlog = variables["innodb_flush_log_at_trx_commit"], variables["sync_binlog"]
    if flush != "1":
        return Finding(
            check="durable",
            level="error",
            text=f"innodb_flush_log_at_trx_commit is {flush}: a commit may be lost when the machine stops",
            fix="set innodb_flush_log_at_trx_commit = 1; until then the node is for reading only",
        )
    if variables["log_bin"] == "ON" and sync_binlog != "1":
        return Finding(
            check="durable",
            level="error",
            text=f"sync_binlog is {sync_binlog} while the binary log is on: a commit may be lost when the machine stops",
            fix="set sync_binlog = 1; until then the node is for reading only",
        )
    return Finding(check="durable", level="ok", text="every commit is forced to disk")


async def _prepared(dialect: MariaDB, session: Session, domain: str) -> Sequence[Finding]:
    ((number,),) = await session.query("SELECT CONNECTION_ID()")
    xid = f"'nodoubt doctor {number}'"
    try:
        await session.command(f"XA START {xid};XA END {xid};XA ROLLBACK {xid}")
    except StatementFailed as failure:
        return [
            Finding(
                check="prepared",
                level="error",
                text=f"the server prepares nothing: {failure}",
                fix="name a server that has XA transactions in the URL; a Galera cluster has none",
            )
        ]
    try:
        listing = await dialect.prepared(session, domain)
    except StatementFailed as failure:
        return [
            Finding(
                check="prepared",
                level="error",
                text=f"prepared branches cannot be listed: {failure}",
                fix=MAY_LIST,
            )
        ]
    findings = [Finding(check="prepared", level="ok", text=f"{len(listing.ours)} prepared branches of ours")]
    if listing.foreign:
        findings.append(
            Finding(
                check="foreign",
                level="warning",
                text=f"{listing.foreign} prepared branches of other transaction managers or domains hold locks here",
                fix="look with XA RECOVER; nodoubt leaves them alone",
            )
        )
    return [*findings, *await _hidden(dialect, session, domain)]


async def _hidden(dialect: MariaDB, session: Session, domain: str) -> Sequence[Finding]:
    """Branches that the server lost sight of, as ``mariadb_attached`` explains."""
    hidden = await _unlisted(dialect, session, domain)
    if hidden:
        # One that is about to be prepared is not listed either, for a moment.
        await session.query(f"SELECT SLEEP({UNLISTED_S})")
        hidden &= await _unlisted(dialect, session, domain)
    gids = ", ".join(sorted(gid for gid, _ in hidden))
    fix = "restart the server: it lists them again then, and they are settled"
    return (
        [Finding(check="hidden", level="error", text=f"prepared, with locks, and not listed: {gids}", fix=fix)]
        if hidden
        else []
    )


async def _unlisted(dialect: MariaDB, session: Session, domain: str) -> set[tuple[str, int]]:
    """Evidence that is written, not committed, and of no branch that is listed."""
    there, committed = [
        {(gid, branch) for gid, branch in await session.query(f"SET TRANSACTION ISOLATION LEVEL {level};{_EVIDENCE}")}
        for level in ("READ UNCOMMITTED", "READ COMMITTED")
    ]
    listing = await dialect.prepared(session, domain)
    return there - committed - {(found.id.gid, found.id.branch) for found in listing.ours}


async def _engines(session: Session) -> Sequence[Finding]:
    rows = await session.query(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
        " AND table_type = 'BASE TABLE' AND engine <> 'InnoDB' ORDER BY table_name LIMIT 5"
    )
    if not rows:
        return []
    tables = ", ".join(table for (table,) in rows)
    return [
        Finding(
            check="prepared",
            level="warning",
            text=f"writes to tables that are not InnoDB cannot be rolled back: {tables}",
            fix="ALTER TABLE … ENGINE=InnoDB, or keep them out of transactions",
        )
    ]


async def _privileges(session: Session) -> Finding:
    """Try what transactions and recovery do; sessions of one's own may always be killed, and XA COMMIT asks for nothing."""
    try:
        await session.command(
            f"START TRANSACTION;INSERT INTO nodoubt_branch VALUES ({_NOBODY}, 0);"
            "INSERT INTO nodoubt_decision (gid, decision, participants, reason)"
            f" VALUES ({_NOBODY}, 'aborted', '{{}}', '') ON DUPLICATE KEY UPDATE probes = probes + 1;"
            f"DELETE FROM nodoubt_branch WHERE gid = {_NOBODY};DELETE FROM nodoubt_decision WHERE gid = {_NOBODY};ROLLBACK"
        )
    except StatementFailed as failure:
        await session.command("ROLLBACK")
        return Finding(
            check="privileges",
            level="error",
            text=f"our tables cannot be used: {failure}",
            fix="GRANT SELECT, INSERT, UPDATE, DELETE on the nodoubt_ tables to this user",
        )
    return Finding(check="privileges", level="ok", text="this user can decide, prepare and settle")
