"""nodoubt's tables on PostgreSQL: how they are made and migrated, and whose they are."""

from __future__ import annotations

from nodoubt.nodes.dialect import Session
from nodoubt.nodes.failures import StatementFailed
from nodoubt.nodes.identity import INSTALL_WAIT_S, SCHEMA_VERSION, Identity, check_migratable
from nodoubt.nodes.texts import literal

#: Of a table, and of a schema.
_UNDEFINED = ("42P01", "3F000")

#: The steps from each schema to the next; a fresh database takes them all. A step that was released never changes.
_MIGRATIONS = {
    1: """\
CREATE SCHEMA IF NOT EXISTS nodoubt;
CREATE TABLE IF NOT EXISTS nodoubt.node (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    name text NOT NULL, domain text NOT NULL, id text NOT NULL, schema_version integer NOT NULL
);
CREATE TABLE IF NOT EXISTS nodoubt.decision (
    gid text COLLATE "C" PRIMARY KEY,
    decision text NOT NULL,
    participants text NOT NULL DEFAULT '{}',
    complete boolean NOT NULL DEFAULT false,
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason text NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS decision_unfinished ON nodoubt.decision (gid) WHERE NOT complete AND decision <> 'aborted';
CREATE TABLE IF NOT EXISTS nodoubt.branch (
    gid text COLLATE "C" NOT NULL, branch integer NOT NULL, PRIMARY KEY (gid, branch)
);
""",
}
#: Two `nodoubt init` of one database take turns ("nodoubt" in ASCII).
_INSTALL_LOCK = 0x6E6F646F756274


async def identity(session: Session) -> Identity | None:
    """The identity row; None where our tables were never made."""
    try:
        rows = await session.query("SELECT name, domain, id, schema_version FROM nodoubt.node")
    except StatementFailed as failure:
        if failure.code in _UNDEFINED:
            return None
        raise
    return Identity(*rows[0]) if rows else None


async def install(session: Session, name: str, domain: str, random: str) -> str:
    """See :meth:`nodoubt.nodes.dialect.Dialect.install`."""
    await session.command(
        f"BEGIN;SET LOCAL lock_timeout = '{INSTALL_WAIT_S} s';SELECT pg_advisory_xact_lock({_INSTALL_LOCK})"
    )
    # Within the transaction nothing may fail.
    ((installed,),) = await session.query("SELECT to_regclass('nodoubt.node') IS NOT NULL")
    found = await identity(session) if installed else None
    if found is None:
        await session.command(f"{_steps_from(0)}{_identify(name, domain, literal(random))};COMMIT")
        return f"installed, schema {SCHEMA_VERSION}"
    check_migratable(found, name, domain)
    if found.schema_version == SCHEMA_VERSION:
        await session.command("COMMIT")
        return f"already installed, schema {SCHEMA_VERSION}"
    await session.command(
        f"{_steps_from(found.schema_version)}UPDATE nodoubt.node SET schema_version = {SCHEMA_VERSION};COMMIT"
    )
    return f"migrated from schema {found.schema_version} to {SCHEMA_VERSION}"


def ddl(name: str, domain: str) -> str:
    """See :meth:`nodoubt.nodes.dialect.Dialect.ddl`."""
    return f"{_steps_from(0)}{_identify(name, domain, 'md5(random()::text)')};\n"


def _identify(name: str, domain: str, random: str) -> str:
    return (
        "INSERT INTO nodoubt.node (name, domain, id, schema_version)"
        f" VALUES ({literal(name)}, {literal(domain)}, {random}, {SCHEMA_VERSION})"
    )


def _steps_from(version: int) -> str:
    return "".join(_MIGRATIONS[step] for step in range(version + 1, SCHEMA_VERSION + 1))
