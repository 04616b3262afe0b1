"""Making a SQLite database a node, and looking at one: what ``nodoubt init`` and ``nodoubt doctor`` do with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nodoubt.errors import ConfigError
from nodoubt.journal.files import Journal
from nodoubt.journal.record import JournalDamaged
from nodoubt.nodes import sqlite_tables as tables
from nodoubt.nodes.apsw_driver import HAS_SESSIONS, VERSION, Session
from nodoubt.nodes.contract import Finding
from nodoubt.nodes.failures import ConnectionLost, StatementFailed
from nodoubt.nodes.findings import identity_finding
from nodoubt.nodes.identity import SCHEMA_VERSION, check_identity
from nodoubt.nodes.sqlite_sessions import Sessions

#: That of the oldest apsw which is tried. Checkpoints that do nothing came with 3.51, unixepoch('subsec') with 3.42.
VERSION_MIN = (3, 54)


def ddl(name: str, domain: str) -> str:
    """The statements that :func:`install` runs on an empty database."""
    texts = ["PRAGMA journal_mode = WAL", *tables.TABLES, tables.identify(name, domain, "hex(randomblob(5))")]
    return "".join(f"{text};\n" for text in texts)


def install(path: Path, name: str, domain: str, random: str) -> str:
    """Create the file if need be, our tables and the identity row. Raises ConfigError and StatementFailed."""
    if not path.parent.is_dir():
        raise ConfigError(
            f"node {name!r}: there is no folder {path.parent}", hint="create it, or correct the node's URL"
        )
    session = Session(path, create=True)
    try:
        session.wait_for_locks(5.0)
        ((mode,),) = session.command("PRAGMA main.journal_mode = WAL")
        if mode != "wal":
            raise ConfigError(f"node {name!r}: {path} cannot be put into WAL mode, it stays in {mode!r} mode")
        session.command("PRAGMA main.synchronous = FULL")
        session.command("BEGIN IMMEDIATE")
        found = tables.identity(session)
        if found is not None:
            check_identity(found, name, domain)
            return f"already installed, schema {found.schema_version}"
        for statement in (*tables.TABLES, tables.identify(name, domain, f"'{random}'")):
            session.command(statement)
        session.command("COMMIT")
        return f"installed, schema {SCHEMA_VERSION}"
    finally:
        session.close()


def inspect(name: str, domain: str, path: Path, sessions: Sessions, journal: Journal, random: str) -> Sequence[Finding]:
    """Look at everything; never raises for what it finds."""
    if not path.exists():
        return [Finding(check="reachable", level="error", text=f"there is no file {path}", fix="run `nodoubt init`")]
    try:
        session = sessions.new()
    except (ConnectionLost, StatementFailed) as error:
        return [Finding(check="reachable", level="error", text=f"{path} cannot be opened: {error}")]
    try:
        return [
            Finding(check="reachable", level="ok", text=str(path)),
            _version(),
            _durable(session),
            identity_finding(tables.identity(session), name, domain),
            _prepared(session, journal),
            _privileges(journal, random),
            _foreign(session),
        ]
    except (ConnectionLost, StatementFailed) as error:
        return [Finding(check="reachable", level="error", text=f"{path} cannot be read: {error}")]
    finally:
        session.close()


def _version() -> Finding:
    if tuple(int(part) for part in VERSION.split(".")[:2]) < VERSION_MIN or not HAS_SESSIONS:
        return Finding(
            check="version",
            level="error",
            text=f"SQLite {VERSION}{'' if HAS_SESSIONS else ' without the session extension'}",
            fix="install apsw from the package index: its SQLite is recent and has the session extension",
        )
    return Finding(check="version", level="ok", text=f"SQLite {VERSION}")


def _durable(session: Session) -> Finding:
    ((mode,),) = session.command("PRAGMA main.journal_mode")
    if mode != "wal":
        fix = "run `nodoubt init`, and find out which program changed it"
        return Finding(check="durable", level="error", text=f"{mode!r} mode, not WAL mode", fix=fix)
    return Finding(check="durable", level="ok", text="WAL mode, synchronous=FULL on every connection of ours")


def _prepared(session: Session, journal: Journal) -> Finding:
    try:
        record = journal.read()
    except JournalDamaged as damage:
        return Finding(
            check="prepared",
            level="error",
            text=str(damage),
            fix="find its transaction on the other nodes, repeat its work here if it was committed, then move the file away",
        )
    if record is None or not session.command("SELECT 1 FROM sqlite_schema WHERE name = 'nodoubt_branch'"):
        return Finding(check="prepared", level="ok", text="no prepared branch")
    if tables.has_evidence(session, record.branch.gid, record.branch.branch):
        return Finding(check="prepared", level="ok", text="no prepared branch; a finished one is not tidied away yet")
    return Finding(
        check="prepared",
        level="warning",
        text=f"{record.branch.gid} is prepared, by process {record.pid}; its home is {record.branch.home!r}",
        fix="it is settled when home can be asked: run `nodoubt settle`",
    )


def _privileges(journal: Journal, random: str) -> Finding:
    try:
        journal.check_writable(random)
    except OSError as error:
        return Finding(
            check="privileges",
            level="error",
            text=f"{journal.path} cannot be written: {error}",
            fix="let this user write in the folder of the database",
        )
    return Finding(check="privileges", level="ok", text="the database's folder is writable")


def _foreign(session: Session) -> Finding:
    names = [
        row[0]
        for row in session.command(
            "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual')"
            " AND name NOT LIKE 'sqlite~_%' ESCAPE '~' AND name NOT LIKE 'nodoubt~_%' ESCAPE '~' ORDER BY name"
        )
    ]
    bare = sorted(set(names) - tables.keys(session, None).carried)
    if bare:
        return Finding(
            check="foreign",
            level="warning",
            text=f"without a declared primary key: {', '.join(bare)}",
            fix="they can be written only where this node is the transaction's home; declare keys to lift that",
        )
    return Finding(check="foreign", level="ok", text="every table has a declared primary key")
