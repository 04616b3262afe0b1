"""What ``nodoubt doctor`` looks at on a PostgreSQL server, and what it says of it. Reads only.

Each group of findings is a function of its own, in the order in which they are shown. Nothing here raises for what it
finds: a lacking privilege is a finding as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nodoubt.nodes.contract import Finding
from nodoubt.nodes.dialect import Session
from nodoubt.nodes.failures import StatementFailed
from nodoubt.nodes.findings import identity_finding
from nodoubt.nodes.postgresql_tables import identity
from nodoubt.protocol.ids import parse_text

#: The oldest server whose behaviour the dialect was written for.
VERSION_MIN = 140_000
#: The fact of a finding: the server replays what a primary wrote.
STANDBY = "standby"
#: A branch that stays prepared for longer was left behind, in seconds by the server's clock.
OLD_S = 300.0

_SERVER = """\
SELECT current_setting('server_version_num')::int, current_setting('server_version'),
    current_setting('max_prepared_transactions')::int, (SELECT count(*) FROM pg_prepared_xacts),
    current_setting('fsync'), current_setting('full_page_writes'), pg_is_in_recovery(),
    current_user::text, current_database()::text, rolsuper,
    has_database_privilege(current_database(), 'CREATE'),
    EXISTS (SELECT FROM pg_namespace WHERE nspname = 'nodoubt')
FROM pg_roles WHERE rolname = current_user"""

_LACKING = """\
SELECT relname::text, string_agg(privilege, ', ' ORDER BY privilege)
FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace AND nspname = 'nodoubt'
    JOIN (VALUES ('node', 'SELECT'), ('node', 'UPDATE'), ('branch', 'SELECT'), ('branch', 'INSERT'), ('branch', 'DELETE'),
        ('decision', 'SELECT'), ('decision', 'INSERT'), ('decision', 'UPDATE'), ('decision', 'DELETE')
    ) AS wanted (name, privilege) ON name = relname
WHERE NOT has_table_privilege(pg_class.oid, privilege) OR NOT has_schema_privilege(n.oid, 'USAGE')
GROUP BY relname ORDER BY relname"""

_PREPARED = """\
SELECT gid, owner::text, extract(epoch FROM clock_timestamp() - prepared)::float8,
    owner = current_user
FROM pg_prepared_xacts WHERE database = current_database()"""


@dataclass(frozen=True, slots=True)
class _Server:
    """The columns of ``_SERVER``."""

    version_num: int
    version: str
    slots: int
    slots_used: int
    fsync: str
    full_page_writes: str
    standby: bool
    role: str
    database: str
    superuser: bool
    may_create: bool
    installed: bool


async def inspect(session: Session, name: str, domain: str) -> Sequence[Finding]:
    """All findings of one node, also those that are fine. Raises ConnectionLost and StatementFailed."""
    # As recovery does.
    await session.command("SET ROLE NONE")
    server = await _server(session)
    prepared = await session.query(_PREPARED)
    findings = [*_version(server), *_slots(server), *_durable(server)]
    findings += _privileges(server, await session.query(_LACKING), prepared, domain)
    findings.append(await _identity(session, name, domain))
    findings += _foreign(prepared, domain)
    # Last, so that whoever compares it with his own clock does so at once.
    ((now,),) = await session.query("SELECT extract(epoch FROM clock_timestamp())::float8")
    return [*findings, Finding(check="clock", level="ok", text="agrees with the clock of this machine", fact=now)]


async def durable(session: Session) -> list[Finding]:
    """Whether a commit outlives the machine."""
    return list(_durable(await _server(session)))


async def _server(session: Session) -> _Server:
    return _Server(*(await session.query(_SERVER))[0])


def _version(server: _Server) -> Iterator[Finding]:
    if server.version_num < VERSION_MIN:
        yield Finding(
            check="version",
            level="error",
            text=f"PostgreSQL {server.version} is older than {VERSION_MIN // 10_000}",
            fix=f"upgrade the server to PostgreSQL {VERSION_MIN // 10_000} or newer",
        )
    else:
        yield Finding(check="version", level="ok", text=f"PostgreSQL {server.version}")


def _slots(server: _Server) -> Iterator[Finding]:
    if server.slots == 0:
        yield Finding(
            check="prepared",
            level="error",
            text="max_prepared_transactions is 0: the server refuses every PREPARE TRANSACTION",
            fix="set max_prepared_transactions to at least max_connections in postgresql.conf; it needs a restart",
        )
        return
    free = server.slots - server.slots_used
    yield Finding(
        check="prepared",
        level="ok" if free else "error",
        text=f"{free} of {server.slots} prepared transactions are free",
        fix="" if free else "run `nodoubt settle`; raise max_prepared_transactions in postgresql.conf and restart",
        fact=free,
    )


def _durable(server: _Server) -> Iterator[Finding]:
    fine = True
    if server.standby:
        fine = False
        yield Finding(
            check="durable",
            level="error",
            text="the server is a standby: it is read-only, and no decision can be written there",
            fix="let the node's URL name the primary, or all hosts with target_session_attrs=read-write",
            fact=STANDBY,
        )
    if server.fsync != "on":
        fine = False
        yield Finding(
            check="durable",
            level="error",
            text="fsync is off: a commit may be lost when the machine stops",
            fix="set fsync = on in postgresql.conf and reload; until then the node is for reading only",
        )
    if server.full_page_writes != "on":
        fine = False
        yield Finding(
            check="durable",
            level="warning",
            text="full_page_writes is off: a crash of the machine may tear pages",
            fix="set full_page_writes = on in postgresql.conf and reload, unless the file system never tears pages",
        )
    if fine:
        yield Finding(
            check="durable", level="ok", text="commits are forced to disk; decisions set synchronous_commit on"
        )


def _privileges(
    server: _Server, lacking: Sequence[tuple[str, str]], prepared: Sequence[tuple[str, str, float, bool]], domain: str
) -> Iterator[Finding]:
    fine = True
    if not server.installed and not server.may_create:
        fine = False
        yield Finding(
            check="privileges",
            level="error",
            text=f"role {server.role!r} may not create the schema nodoubt in database {server.database!r}",
            fix=f'GRANT CREATE ON DATABASE "{server.database}" TO "{server.role}", '
            "or let the owner run what `nodoubt init --sql` prints",
        )
    for table, privileges in lacking:
        fine = False
        yield Finding(
            check="privileges",
            level="error",
            text=f"role {server.role!r} lacks {privileges} on nodoubt.{table}, or USAGE on its schema",
            fix=f'GRANT USAGE ON SCHEMA nodoubt TO "{server.role}"; '
            f'GRANT {privileges} ON nodoubt.{table} TO "{server.role}"',
        )
    ours = [(owner, mine) for gid, owner, _, mine in prepared if _domain(gid) == domain]
    strangers = sorted({owner for owner, mine in ours if not mine})
    if strangers and not server.superuser:
        fine = False
        yield Finding(
            check="privileges",
            level="error",
            text=f"role {server.role!r} cannot finish branches that were prepared by {', '.join(map(repr, strangers))}",
            fix="let every process of the domain log in as one role, or settle as that role or as a superuser",
        )
    if fine:
        whose = "every role" if server.superuser else f"role {server.role!r}"
        yield Finding(
            check="privileges", level="ok", text=f"can list all branches, finish those of {whose}, end sessions"
        )


async def _identity(session: Session, name: str, domain: str) -> Finding:
    try:
        return identity_finding(await identity(session), name, domain)
    except StatementFailed as failure:
        return Finding(
            check="identity", level="error", text=f"cannot be read: {failure}", fix="see the finding on privileges"
        )


def _foreign(prepared: Sequence[tuple[str, str, float, bool]], domain: str) -> Iterator[Finding]:
    ages_s: dict[str | None, list[float]] = {}
    for gid, _, age_s, _ in prepared:
        ages_s.setdefault(_domain(gid), []).append(age_s)
    ours = ages_s.pop(domain, [])
    if ours and max(ours) > OLD_S:
        yield Finding(
            check="foreign",
            level="warning",
            text=f"{_count(ours)} of this domain, the oldest for {max(ours):.0f} s",
            fix="run `nodoubt settle`, or see `nodoubt tx list` for what it waits for",
        )
    for other, ages in ages_s.items():
        old = other is None or max(ages) > OLD_S
        whose = "another product" if other is None else f"domain {other!r}"
        yield Finding(
            check="foreign",
            level="warning" if old else "ok",
            text=f"{_count(ages)} of {whose}, the oldest for {max(ages):.0f} s",
            fix="it holds locks and is left alone: its own manager, or a person, has to finish it" if old else "",
        )
    if not ages_s:
        yield Finding(check="foreign", level="ok", text="no prepared transaction is foreign")


def _domain(gid: str) -> str | None:
    branch = parse_text(gid)
    return branch.domain if branch else None


def _count(ages: Sequence[float]) -> str:
    return "1 prepared transaction" if len(ages) == 1 else f"{len(ages)} prepared transactions"
