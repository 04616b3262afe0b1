"""MariaDB and MySQL: our tables, and which database they say a session has reached.

The identity row tells, but nobody can read it while the gate is closed, whoever closed it least of all: LOCK TABLES stands in the
way. So the database's id stands once more in a row of the evidence, under a key that no gid can be and that comes after all gids.
"""

from __future__ import annotations

from nodoubt.nodes.dialect import Row, Session
from nodoubt.nodes.failures import StatementFailed
from nodoubt.nodes.identity import Identity, check_same
from nodoubt.nodes.texts import literal

NO_SUCH_TABLE = "1146"
#: Users' default may be a limit.
ALL_ROWS = "sql_select_limit=18446744073709551615"
#: What the key of such a row begins with.
SIGN = "~"
_KEY_LENGTH_MAX = 26

_NAME = "CHARACTER SET ascii COLLATE ascii_bin NOT NULL"
DDL = (
    f"""CREATE TABLE IF NOT EXISTS nodoubt_node (
    one TINYINT NOT NULL DEFAULT 1 PRIMARY KEY CHECK (one = 1),
    name VARCHAR(31) {_NAME}, domain VARCHAR(31) {_NAME}, id VARCHAR(32) {_NAME}, schema_version INT NOT NULL
) ENGINE=InnoDB""",
    f"""CREATE TABLE IF NOT EXISTS nodoubt_decision (
    gid CHAR(26) {_NAME} PRIMARY KEY,
    decision VARCHAR(16) {_NAME},
    participants TEXT {_NAME},
    complete TINYINT NOT NULL DEFAULT 0,
    decided_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    reason TEXT CHARACTER SET utf8mb4 NOT NULL,
    probes INT UNSIGNED NOT NULL DEFAULT 0,
    KEY nodoubt_unfinished (complete, decision, gid)
) ENGINE=InnoDB""",
    f"""CREATE TABLE IF NOT EXISTS nodoubt_branch (
    gid CHAR(26) {_NAME}, branch INT NOT NULL, PRIMARY KEY (gid, branch)
) ENGINE=InnoDB""",
)
#: After the identity row was written; a database that was copied has the other's sign.
SIGNING = (
    f"DELETE FROM nodoubt_branch WHERE gid >= '{SIGN}'",
    f"INSERT INTO nodoubt_branch SELECT LEFT(CONCAT('{SIGN}', id), {_KEY_LENGTH_MAX}), 0 FROM nodoubt_node",
)


async def identity(session: Session, schema: str) -> Identity | None:
    """The identity row; None where our tables were never made."""
    return (await _identity(session, schema, "0"))[0]


async def signed_identity(session: Session, schema: str) -> tuple[Identity | None, bool]:
    """The identity row, and whether its id stands in the evidence. Where an earlier version made the tables it does not."""
    return await _identity(session, schema, _sign(schema, f"LEFT(CONCAT('{SIGN}', id), {_KEY_LENGTH_MAX})"))


async def _identity(session: Session, schema: str, sign: str) -> tuple[Identity | None, bool]:
    try:
        rows = await session.query(f"SELECT name, domain, id, schema_version, {sign} FROM {schema}nodoubt_node")
    except StatementFailed as failure:
        if failure.code == NO_SUCH_TABLE:
            return None, False
        raise
    return (Identity(*rows[0][:-1]), bool(rows[0][-1])) if rows else (None, False)


def _sign(schema: str, key: str) -> str:
    return f"EXISTS (SELECT 1 FROM {schema}nodoubt_branch WHERE gid = {key})"


async def ask(session: Session, schema: str, database: str, text: str) -> Row:
    """What a text answers whose SELECT goes on. Raises ConfigError where it reached another database than of this id.

    Every database is right where the id is "".
    """
    sign = _sign(schema, literal(f"{SIGN}{database}"[:_KEY_LENGTH_MAX])) if database else "1"
    try:
        ((*row, signed),) = await session.query(text + sign)
    except StatementFailed:
        if database:
            check_same(await identity(session, schema), database)
        raise
    if not signed:
        check_same(await identity(session, schema), database)
    return tuple(row)
