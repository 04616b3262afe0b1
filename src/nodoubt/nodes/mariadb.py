"""MariaDB (10.5 and later) and MySQL (8.0 and later): texts, limits, error codes. Each fact has a test on a real server:

- A prepared branch stays attached to its session, and can be lost sight of when that ends: see ``mariadb_attached``.
- XA RECOVER lists the branches of a whole server, and several nodes may be databases of one server. A name of 31 bytes does
  not fit into a bqual any more, so the token is followed by a mark: 16 hex digits of the SHA-256 of the database's name,
  which is unique on a server and can never be copied to a second database of it, as a row could.
- Inside an XA transaction the server itself refuses COMMIT, DDL and the like (1399), so home's branch is one too. In others
  a session that is READ ONLY refuses DDL; where a procedure began another one, the savepoint of the first is gone (1305).
- A failed statement does not doom a transaction: the guard remembers it. The first error ends a packet of statements.
- A commit is visible before its log is forced. Whoever acts on a decision it read must commit a write of its own first.
- With a binary log, MariaDB's XA COMMIT … ONE PHASE can be undone to prepared by a crash, until the next commit forces it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence

from nodoubt.errors import ConfigError
from nodoubt.nodes import mariadb_attached as attached
from nodoubt.nodes import mariadb_isolation as isolated
from nodoubt.nodes import mariadb_tables as tables
from nodoubt.nodes.contract import Capabilities, DecisionRow, Finding, Isolation, Listing, PreparedBranch, Terms
from nodoubt.nodes.dialect import Beside, NodeSettings, Session, Stillness
from nodoubt.nodes.failures import StatementFailed
from nodoubt.nodes.identity import INSTALL_WAIT_S, SCHEMA_VERSION, Identity, check_identity
from nodoubt.nodes.mariadb_inspect import durable, inspect, may_list, too_old
from nodoubt.nodes.mariadb_names import branch_of, spelt
from nodoubt.nodes.mariadb_rules import RULES
from nodoubt.nodes.texts import decision_row, literal, literals, participants_json
from nodoubt.protocol.ids import BranchId, gid_unix_ms
from nodoubt.protocol.verdicts import HomeSays

DUPLICATE_KEY = "1062"
LOCK_WAIT_TIMEOUT = "1205"
DEADLOCK = "1213"
#: What MySQL says where MariaDB says 1205 at once.
LOCK_NOWAIT = "3572"
XAER_NOTA = "1397"
#: Deadlock, lock wait time-out, snapshot conflict (1020), rolled-back XA branch (1402, 1613, 1614), interrupted (1317).
_RETRYABLE = {DEADLOCK, LOCK_WAIT_TIMEOUT, "1020", "1402", "1613", "1614", "1317"}

#: With another default COMMIT would begin the next transaction, or end the session.
_COMMIT = "completion_type=0"
#: Limits that would stand in for ours, where the server has them.
_OTHER_LIMITS = ",idle_write_transaction_timeout=0,idle_readonly_transaction_timeout=0"

#: In :attr:`BranchId.session` the database's mark follows the session's token.
MARK_LENGTH = 16
#: So many such sessions are remembered.
OVER_MAX = 1000

#: Not UNIX_TIMESTAMP(NOW(6)): it reads a time of the session's zone, which knows some hours of a year twice.
_NOW_S = "UNIX_TIMESTAMP() + MICROSECOND(NOW(6)) * 0.000001"
_COLUMNS = f"gid, decision, participants, complete, {_NOW_S} - UNIX_TIMESTAMP(decided_at), reason, probes"


class MariaDB:
    """The dialect: see :class:`nodoubt.nodes.dialect.Dialect`. One instance serves one node: it learns the database's name."""

    kind = "mariadb"
    capabilities = Capabilities(home=True, detached=False, concurrent=True, exclusive_gate=True)
    rules = RULES
    prepared_tag = ""
    decided_tag = ""
    clock = f"SELECT {_NOW_S}"

    def __init__(self) -> None:
        self._version = ""
        #: Where our tables are; a block may ``USE`` another database, so no text of ours relies on the current one.
        self._schema = ""
        self._mark = ""
        #: The id by which new sessions know the database; "" until the node was opened.
        self._database = ""
        self._level = self._read_committed = self._forced = self._decided = ""
        #: Sessions that have let go of all that was attached to them.
        self._over: set[str] = set()
        #: Whether a writing branch can be kept from overwriting what its snapshot does not show.
        self.snapshot_isolation = False

    async def explore(self, session: Session) -> None:
        """See, once, what the server is. Raises ConfigError for one that cannot be a node."""
        # Before any user had it: USE would lie.
        if self._version:
            return
        ((database, folded, version, logs, log_format),) = await session.query(
            "SELECT DATABASE(), @@lower_case_table_names, VERSION(), @@log_bin, @@binlog_format"
        )
        if not database:
            raise ConfigError("the URL names no database", hint="use mariadb://user@host/database")
        if (why := too_old(version, logs=bool(int(logs)))) is not None:
            raise ConfigError(why)
        self._schema = f"`{database.replace('`', '``')}`."
        name = database.lower() if folded else database
        self._mark = hashlib.sha256(name.encode()).hexdigest()[:MARK_LENGTH]
        # At READ COMMITTED probes lock nothing but their keys; logging by statement does not allow it (error 1665).
        self._level = "REPEATABLE READ" if log_format == "STATEMENT" else "READ COMMITTED"
        self._read_committed = "" if log_format == "STATEMENT" else "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;"
        self._forced = isolated.forced(self._schema, self._read_committed)
        self._version = version

    async def serve(self, session: Session) -> None:
        await self.explore(session)
        # At READ UNCOMMITTED it would believe what is not committed; the other settings change what rows it gets and writes,
        # and a zone with summer time knows some hours twice.
        await tables.ask(
            session,
            self._schema,
            self._database,
            f"SET SESSION TRANSACTION ISOLATION LEVEL {self._level};"
            f"SET SESSION {_COMMIT},sql_mode='STRICT_TRANS_TABLES',{tables.ALL_ROWS},time_zone='+00:00';SELECT ",
        )

    async def set_up(self, session: Session, settings: NodeSettings) -> None:
        await self.explore(session)
        session.handle = session.token
        # MySQL has no limit of its own for transactions, so there sessions that idle in the pool end as well.
        limit, others = ("idle_transaction_timeout", _OTHER_LIMITS) if self.is_mariadb else ("wait_timeout", "")
        held, logs = await tables.ask(
            session,
            self._schema,
            self._database,
            f"SET SESSION {_COMMIT},{limit}={math.ceil(settings.session_limit_s)}{others};"
            f"SELECT {attached.owning(session.token)}, @@log_bin, ",
        )
        # A server that was started again, perhaps with a binary log now, has new sessions.
        self._decided = f";{self._forced}" if int(logs) and self.is_mariadb else ""
        if held != 1:
            raise StatementFailed("", f"the lock nodoubt:{session.token} is held by somebody else")
        session.token += self._mark

    @property
    def is_mariadb(self) -> bool:
        """Whether the server is MariaDB, not MySQL."""
        return "mariadb" in self._version.lower()

    def begin(self, branch: BranchId, *, read_only: bool) -> str:
        if read_only:
            return "SET SESSION TRANSACTION READ ONLY;START TRANSACTION;SAVEPOINT nodoubt_transaction"
        return f"XA START {spelt(branch)}"

    def begin_on(self, session: Session, branch: BranchId, *, read_only: bool, terms: Terms) -> str:
        known = isolated.tunable(self.snapshot_isolation)
        return isolated.tune(session, terms, known) + self.begin(branch, read_only=read_only)

    def look(self, terms: Terms) -> str:
        return f"SELECT 1 FROM {self._schema}nodoubt_branch WHERE gid = ''"

    def stillness(self, terms: Terms) -> Stillness | None:
        return None

    async def export(self, session: Session) -> str:
        raise StatementFailed("", "the server cannot share a snapshot")

    def refusal(self, findings: Sequence[Finding], isolation: Isolation, *, read_only: bool) -> str:
        if isolation is not Isolation.SNAPSHOT or read_only or self.snapshot_isolation:
            return ""
        return isolated.lost_updates(self._version, is_mariadb=self.is_mariadb)

    def close_gate(self, wait_s: float, idle_s: float) -> str:
        return isolated.close_gate(self._schema, self._mark, wait_s, idle_s)

    def reopen_gate(self) -> str:
        return f"{isolated.reopen_gate(self._mark)};{self._forced}"

    def release(self, terms: Terms) -> str:
        forced = f";{self._forced}" if terms.isolation is Isolation.SERIALIZABLE else ""
        return f"RELEASE SAVEPOINT nodoubt_transaction;COMMIT;SET SESSION TRANSACTION READ WRITE{forced}"

    def prepare(self, branch: BranchId) -> str:
        xid = spelt(branch)
        # The evidence is also what keeps a branch that wrote nothing from vanishing with its session after XA PREPARE.
        return (
            f"INSERT INTO {self._schema}nodoubt_branch VALUES ('{branch.gid}',{branch.branch});"
            f"XA END {xid};XA PREPARE {xid}"
        )

    def decide(self, branch: BranchId, participants: Mapping[int, str]) -> str:
        xid, reason = spelt(branch), isolated.passing(self._schema, "''")
        return (
            f"INSERT INTO {self._schema}nodoubt_decision (gid, decision, participants, complete, reason) VALUES"
            f" ('{branch.gid}','committed','{participants_json(participants)}',{0 if participants else 1},{reason});"
            f"XA END {xid};XA COMMIT {xid} ONE PHASE{self._decided}"
        )

    def finish(self, branch: BranchId, *, commit: bool) -> str:
        return f"XA {'COMMIT' if commit else 'ROLLBACK'} {spelt(branch)}"

    async def is_over(self, session: Session, branch: BranchId) -> bool:
        if branch.session in self._over:
            return True
        if await attached.is_over(session, branch.session):
            self._over = {*itertools.islice(self._over, OVER_MAX), branch.session}
        return branch.session in self._over

    def hidden(self, gid: str, branches: Sequence[int]) -> str:
        return ";".join(self._read_committed + attached.hidden(self._schema, gid, branch) for branch in branches)

    def reveal(self, branch: BranchId) -> str:
        return attached.reveal(self._schema, branch, spelt(branch))

    def is_conflict(self, failure: StatementFailed) -> bool:
        # Asked about the decide packet alone, which carries no statement of the user and one INSERT. The key is called
        # PRIMARY by MariaDB and nodoubt_decision.PRIMARY by MySQL; the words around it depend on the server's language.
        return failure.code == DUPLICATE_KEY and failure.constraint in ("PRIMARY", "nodoubt_decision.PRIMARY")

    def is_retryable(self, failure: StatementFailed) -> bool:
        return failure.code in _RETRYABLE

    def is_missing(self, failure: StatementFailed) -> bool:
        return failure.code == XAER_NOTA

    def is_locked(self, failure: StatementFailed) -> bool:
        # A deadlock, too, means that somebody holds a key.
        return failure.code in (LOCK_WAIT_TIMEOUT, LOCK_NOWAIT, DEADLOCK)

    async def undo(self, session: Session, branch: BranchId) -> bool:
        xid = spelt(branch)
        # It may have ended before, or a deadlock made it roll back only; XA ROLLBACK tells.
        with contextlib.suppress(StatementFailed):
            await session.command(f"XA END {xid}")
        try:
            await session.command(f"XA ROLLBACK {xid}")
        except StatementFailed:
            return False
        return True

    async def prepared(self, session: Session, domain: str) -> Listing:
        # MySQL would show a foreign id's bytes as text; MariaDB sends them as they are.
        rows = await session.query("XA RECOVER" if self.is_mariadb else "XA RECOVER CONVERT XID")
        found = [branch_of(row) for row in rows]
        # Those of other databases on this server are not even foreign.
        here = [branch for branch in found if branch is not None and self._is_here(branch)]
        ours = [branch for branch in here if branch.domain == domain]
        foreign = found.count(None) + len(here) - len(ours)
        ((now_s,),) = await session.query(self.clock) if ours else [(0,)]
        # No server keeps the time of preparation.
        aged = [(branch, max(0.0, float(now_s) - gid_unix_ms(branch.gid) / 1000)) for branch in ours]
        return Listing(ours=tuple(PreparedBranch(id=branch, age_s=age_s) for branch, age_s in aged), foreign=foreign)

    def _is_here(self, branch: BranchId) -> bool:
        """Whether a branch of this server is one of this database."""
        return branch.session[attached.TOKEN_LENGTH :] == self._mark

    async def end_owner(self, session: Session, branch: BranchId, handle: str) -> bool:
        return await attached.end_owner(session, branch.session or handle)

    async def applied(self, session: Session, branches: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        gids = literals(sorted({gid for gid, _ in branches}))
        # What was read may not be on disk, and a decision is going to be marked complete for it.
        applied = f"SELECT gid, branch FROM {self._schema}nodoubt_branch WHERE gid IN ({gids});{self._forced}"
        return {(gid, branch) for gid, branch in await session.query(applied)} & set(branches)

    async def before_probe(self, session: Session, lock_timeout_s: float) -> float:
        set_limit = f"SET SESSION innodb_lock_wait_timeout = {math.ceil(lock_timeout_s)}"
        ((now_s,),) = await session.query(f"{set_limit};{self.clock}")
        return float(now_s)

    async def probe(self, session: Session, gids: Sequence[str], until_s: float) -> Mapping[str, HomeSays]:
        # Too late, it is NULL, which no reason can be.
        values = ",".join(f"({literal(gid)},'aborted','{{}}',@nodoubt_reason)" for gid in sorted(gids))
        # After the insert all rows are locked: those without a probe are its own, whoever else probes meanwhile. Each row
        # was changed, so the commit forces the log, and with it every decision that was read. All in one packet: between
        # two of them a line that goes dead would leave the keys locked, and the gids in doubt.
        rows = await session.query(
            f"SET @nodoubt_reason = IF({_NOW_S} < {until_s:f}, '', NULL);{self._read_committed}START TRANSACTION;"
            f"INSERT INTO {self._schema}nodoubt_decision (gid, decision, participants, reason) VALUES {values}"
            f" ON DUPLICATE KEY UPDATE probes = probes + 1;{self._select} WHERE gid IN ({literals(gids)});COMMIT"
        )
        return {
            row[0]: HomeSays.FRESH if row[1] == "aborted" and row[6] == 0 else decision_row(*row[:6]).says
            for row in rows
        }

    async def decisions(self, session: Session, gids: Sequence[str]) -> Mapping[str, DecisionRow]:
        rows = await session.query(f"{self._select} WHERE gid IN ({literals(gids)})")
        if rows:
            # What was seen may not be on disk yet; a committed write forces all that was logged before it.
            await session.command(
                f"UPDATE {self._schema}nodoubt_decision SET probes = probes + 1"
                f" WHERE gid IN ({literals(row[0] for row in rows)})"
            )
        return {row[0]: decision_row(*row[:6]) for row in rows}

    async def unfinished(self, session: Session, limit: int) -> Sequence[DecisionRow]:
        # Not forced: whoever finishes them probes first.
        rows = await session.query(
            f"{self._select} WHERE complete = 0 AND decision <> 'aborted' ORDER BY gid LIMIT {int(limit)}"
        )
        return [decision_row(*row[:6]) for row in rows]

    @property
    def _select(self) -> str:
        return f"SELECT {_COLUMNS} FROM {self._schema}nodoubt_decision"

    def complete(self, gids: Sequence[str]) -> str:
        # The count makes it a write, and so forced to disk, even where the row was complete already.
        return (
            f"UPDATE {self._schema}nodoubt_decision SET decided_at = IF(complete, decided_at, NOW(6)), complete = 1,"
            " probes = probes + 1"
            f" WHERE gid IN ({literals(gids)})"
        )

    def drop_evidence(self, gids: Sequence[str]) -> str:
        return f"DELETE FROM {self._schema}nodoubt_branch WHERE gid IN ({literals(gids)})"

    def old_evidence(self, before_gid: str, limit: int) -> str:
        return (
            f"SELECT gid FROM {self._schema}nodoubt_branch WHERE gid < {literal(before_gid)}"
            f" ORDER BY gid DESC LIMIT {int(limit)}"
        )

    async def purge(self, session: Session, before_gid: str, retention_s: float, limit: int) -> int:
        return int(
            await session.command(
                f"{self._read_committed}DELETE FROM {self._schema}nodoubt_decision"
                f" WHERE gid < {literal(before_gid)} AND (complete = 1 OR decision = 'aborted')"
                f" AND UNIX_TIMESTAMP(decided_at) < {_NOW_S} - {retention_s:f} ORDER BY gid LIMIT {int(limit)}"
            )
        )

    def resolve(self, gid: str, *, commit: bool, reason: str) -> str:
        decision = "committed" if commit else "aborted"
        return (
            f"INSERT INTO {self._schema}nodoubt_decision (gid, decision, participants, reason)"
            f" VALUES ({literal(gid)},'{decision}','{{}}',{isolated.passing(self._schema, literal(reason))})"
            " ON DUPLICATE KEY UPDATE probes = probes + 1"
        )

    def replace_broken(self, row: DecisionRow, *, commit: bool, reason: str) -> str:
        decision, participants = row.raw or ("", "")
        became = "committed" if commit else "aborted"
        return (
            f"UPDATE {self._schema}nodoubt_decision SET decision = '{became}',"
            f" participants = {literal(participants_json(row.participants))},"
            f" reason = {isolated.passing(self._schema, literal(reason))}"
            f" WHERE gid = {literal(row.gid)} AND {_is('decision', decision)} AND {_is('participants', participants)}"
        )

    async def identity(self, session: Session) -> Identity | None:
        """The identity row; None where our tables were never made. Raises ConfigError."""
        await self.explore(session)
        return await tables.identity(session, self._schema)

    async def check_own_session(self, session: Session, name: str, beside: Beside) -> None:
        """Not looked for."""

    async def check_identity(self, session: Session, name: str, domain: str) -> None:
        await self.explore(session)
        identity, signed = await tables.signed_identity(session, self._schema)
        found = check_identity(identity, name, domain)
        await may_list(session, is_mariadb=self.is_mariadb)
        self._database = found.id if signed else ""

    async def inspect(self, session: Session, name: str, domain: str) -> Sequence[Finding]:
        return await inspect(self, session, name, domain)

    async def durable(self, session: Session) -> Sequence[Finding]:
        return [await durable(self, session)]

    async def install(self, session: Session, name: str, domain: str, random: str) -> str:
        await self.explore(session)
        lock = literal(f"nodoubt:install:{self._mark}")
        ((held,),) = await session.query(
            f"SET {_COMMIT},lock_wait_timeout={INSTALL_WAIT_S};SELECT GET_LOCK({lock}, {INSTALL_WAIT_S})"
        )
        if held != 1:
            raise StatementFailed(LOCK_WAIT_TIMEOUT, "another installer of this database does not come to its end")
        try:
            found = await self.identity(session)
            if found is not None:
                check_identity(found, name, domain)
                await session.command(";".join(tables.SIGNING))
                return f"already installed, schema {found.schema_version}"
            # DDL commits statement by statement: the identity row comes last and says that all before it is there.
            for text in tables.DDL:
                await session.command(text)
            await session.command(";".join((self._identify(name, domain, literal(random)), *tables.SIGNING)))
        finally:
            await session.query(f"SELECT RELEASE_LOCK({lock})")
        return f"installed, schema {SCHEMA_VERSION}"

    def ddl(self, name: str, domain: str) -> str:
        identify = self._identify(name, domain, "LEFT(SHA2(UUID(), 256), 8)")
        return "".join(f"{text};\n" for text in (*tables.DDL, identify, *tables.SIGNING))

    def _identify(self, name: str, domain: str, random: str) -> str:
        return (
            "INSERT INTO nodoubt_node (name, domain, id, schema_version)"
            f" VALUES ({literal(name)}, {literal(domain)}, {random}, {SCHEMA_VERSION})"
        )


def _is(column: str, text: str) -> str:
    """Compare by bytes: nobody knows what stands in a row that cannot be read."""
    return f"CAST({column} AS BINARY) = x'{text.encode().hex()}'"
