"""PostgreSQL: its texts, its limits, its error codes. Tried on 15 and 18; section numbers are of the manual.

Facts that everything here rests on, each with a test against a real server:

- PREPARE TRANSACTION and COMMIT of a failed transaction *succeed* with the tag ``ROLLBACK``: tags are checked.
- A PREPARE that failed has rolled back. 42704 on COMMIT PREPARED proves nothing by itself.
- COMMIT PREPARED must be alone in its packet; ``INSERT …; COMMIT`` and ``INSERT …; PREPARE TRANSACTION`` need not.
- A row becomes visible only after its commit was forced, so a decision that was read is durable.
- Locks end after the row became visible. So who gets the gate's lock finds all that was decided before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from nodoubt.nodes import postgresql_tables as tables
from nodoubt.nodes.contract import Capabilities, DecisionRow, Finding, Isolation, Listing, PreparedBranch, Terms
from nodoubt.nodes.dialect import Beside, Detached, NodeSettings, Session, Stillness
from nodoubt.nodes.failures import StatementFailed, too_late
from nodoubt.nodes.identity import check_identity, check_same
from nodoubt.nodes.postgresql_inspect import STANDBY, durable, inspect
from nodoubt.nodes.postgresql_locks import advisory_locks
from nodoubt.nodes.postgresql_pooler import check_own_session
from nodoubt.nodes.postgresql_stillness import PREPARE_STILLNESS, stillness
from nodoubt.nodes.statements import POSTGRESQL, Rule, Rules, starts
from nodoubt.nodes.texts import decision_row, literal, literals, participants_json
from nodoubt.protocol.ids import BranchId, parse_text
from nodoubt.protocol.verdicts import HomeSays

_ENDS = "the block ends the transaction by itself: leave it to commit, raise or call tx.rollback() to abort"
_NOT_PREPARED = "PostgreSQL cannot prepare a transaction that did this (PREPARE TRANSACTION, notes)"

_BOUND = "it ends a transaction whose program is stopped, before recovery forgets that it aborted it"
_MODE = "what a branch may do is said when it is opened: tx.on(name, read_only=…)"


def _not_set(name: str, why: str) -> tuple[Rule, Rule]:
    """There are two ways to set something: a statement, and a function that is given the name as a string."""
    return (
        Rule(pattern=starts(rf"(?:SET|RESET) (?:(?:SESSION|LOCAL) )?\"?{name}"), why=why),
        Rule(pattern=re.compile(rf"\bset_config\W{{1,20}}{name}\b", re.IGNORECASE), why=why, in_strings=True),
    )


RULES = Rules(
    lexicon=POSTGRESQL,
    forbidden=(
        Rule(pattern=starts("BEGIN|START TRANSACTION|COMMIT|END|ABORT|PREPARE TRANSACTION"), why=_ENDS),
        Rule(pattern=starts(r"ROLLBACK(?!\s+(?:WORK\s+|TRANSACTION\s+)?TO\b)"), why=_ENDS),
        Rule(pattern=starts("LISTEN|UNLISTEN|NOTIFY"), why=_NOT_PREPARED, home_may=True),
        Rule(pattern=starts(r"CREATE (?:(?:GLOBAL|LOCAL) )?TEMP(?:ORARY)?"), why=_NOT_PREPARED, home_may=True),
        Rule(pattern=starts(r"DECLARE [^;]*WITH HOLD"), why=_NOT_PREPARED, home_may=True),
        Rule(
            pattern=starts(r"DISCARD|RESET ALL|DEALLOCATE ALL|DEALLOCATE PREPARE ALL"),
            why="it would drop what nodoubt keeps in the session",
        ),
        Rule(pattern=starts(r"(?:WITH\b[^;]*\b)?UPDATE (?:pg_catalog\.)?pg_settings"), why="say SET LOCAL instead"),
        *_not_set("idle_in_transaction_session_timeout", _BOUND),
        *_not_set("transaction_read_only", _MODE),
        Rule(pattern=starts(r"SET (?:(?:SESSION|LOCAL) )?TRANSACTION\b[^;]*\bREAD\s+WRITE"), why=_MODE),
    ),
    lasting=re.compile(
        r"^SET\s+(?!LOCAL\b|TRANSACTION\b|CONSTRAINTS\b)|^RESET\b|\bset_config\"?\s*\("
        r"|\bpg_(?:try_)?advisory_lock(?:_shared)?\"?\s*\(|^PREPARE\b|^LISTEN\b|^LOAD\b|^DEALLOCATE\b"
        r"|\bpg_temp\b|(?:^CREATE|\bINTO)\s+(?:\w+\s+){0,3}TEMP(?:ORARY)?\b|\bWITH\s+HOLD\b|^DO\b|^CALL\b",
        re.IGNORECASE,
    ),
)

#: From here on the transaction is ours. What the block deferred is done with its own role, and then that of who logged in is
#: set, who may write our tables: only the owner may finish a branch, and that is whoever's role is set in PREPARE. And votes
#: and decisions are forced, to standbys too, although the block may have switched that off for its own reasons.
_OURS = "SET CONSTRAINTS ALL IMMEDIATE;SET LOCAL ROLE NONE;SET LOCAL synchronous_commit=on;"
#: As no setting of the session or the database spells it otherwise.
_STARTED = "extract(epoch FROM backend_start)::text"

_NOW_S = "extract(epoch FROM clock_timestamp())::float8"

UNIQUE_VIOLATION = "23505"
UNDEFINED_OBJECT = "42704"
LOCK_NOT_AVAILABLE = "55P03"
#: Class 40 is transaction rollback (serialization failure, deadlock), 53 insufficient resources, 57 operator intervention
#: (shutdown, cancelled); the appendix on error codes. Of class 55, object not in state, two pass: 55000 is also the answer of a
#: server that prepares nothing.
_RETRYABLE_CLASSES = ("40", "53", "57")
_RETRYABLE = (LOCK_NOT_AVAILABLE, "55006")

_SELECT = (
    "SELECT gid, decision, participants, complete, extract(epoch FROM clock_timestamp() - decided_at)::float8, reason"
    " FROM nodoubt.decision"
)


class PostgreSQL(Detached):
    """The dialect: see :class:`nodoubt.nodes.sql.Dialect`."""

    kind = "postgresql"
    capabilities = Capabilities(home=True, detached=True, concurrent=True, shares_snapshots=True, tells_stillness=True)
    rules = RULES
    prepared_tag = "PREPARE TRANSACTION"
    decided_tag = "COMMIT"
    #: Whoever decides holds this until his COMMIT, and whoever closes the gate a lock that excludes it. Not on the table of
    #: decisions: its autovacuum would hold off who closes the gate, and be cancelled by him.
    pass_gate = "LOCK TABLE nodoubt.node IN ROW EXCLUSIVE MODE;"

    def __init__(self) -> None:
        #: The id in the identity row; "" until the node was opened.
        self._database = ""

    async def serve(self, session: Session) -> None:
        # A role that is set at login is for the blocks alone: branches belong to who logged in, who may finish them.
        known = f";SELECT FROM nodoubt.node WHERE id = {literal(self._database)}" if self._database else ""
        try:
            tag = await session.command(f"SET ROLE NONE{known}")
        except StatementFailed:
            if known:
                check_same(await tables.identity(session), self._database)
            raise
        if known and tag != "SELECT 1":
            check_same(await tables.identity(session), self._database)

    async def set_up(self, session: Session, settings: NodeSettings) -> None:
        await self.serve(session)
        ((pid, started),) = await session.query(
            f"SELECT pid, {_STARTED} FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        )
        session.handle = f"{pid} {started}"
        await session.command(
            f"RESET ROLE;SET idle_in_transaction_session_timeout = {_ms(settings.session_limit_s)};"
            "PREPARE nodoubt_evidence(text, integer) AS INSERT INTO nodoubt.branch VALUES ($1, $2);"
            "PREPARE nodoubt_decide(text, text, boolean) AS"
            " INSERT INTO nodoubt.decision (gid, decision, participants, complete) VALUES ($1, 'committed', $2, $3);"
            f"{PREPARE_STILLNESS}"
        )

    def begin(self, branch: BranchId, *, read_only: bool) -> str:
        return "BEGIN READ ONLY" if read_only else "BEGIN"

    def begin_on(self, session: Session, branch: BranchId, *, read_only: bool, terms: Terms) -> str:
        if terms.isolation is Isolation.ATOMIC:
            return self.begin(branch, read_only=read_only)
        mode = " READ ONLY" if read_only else ""
        if terms.isolation is Isolation.SNAPSHOT:
            return f"BEGIN ISOLATION LEVEL REPEATABLE READ{mode}"
        # Each statement of the block has a snapshot of its own, from after all locks were taken.
        return f"BEGIN ISOLATION LEVEL READ COMMITTED{mode};{_limit(terms)}{advisory_locks(branch.domain, terms.keys)}"

    def look(self, terms: Terms) -> str:
        # The first query takes the snapshot (13.2.2 "Repeatable Read Isolation Level"); a SET is none.
        return _limit(terms) + (f"SET TRANSACTION SNAPSHOT {literal(terms.export)}" if terms.export else "SELECT 1")

    def stillness(self, terms: Terms) -> Stillness:
        return stillness(self.look(terms))

    async def export(self, session: Session) -> str:
        ((export,),) = await session.query("SELECT pg_export_snapshot()")
        return str(export)

    def refusal(self, findings: Sequence[Finding], isolation: Isolation, *, read_only: bool) -> str:
        if isolation is Isolation.ATOMIC or all(finding.fact != STANDBY for finding in findings):
            return ""
        return f"the server is a standby, which lags behind: no {isolation} there; let the node's URL name the primary"

    def close_gate(self, wait_s: float, idle_s: float) -> str:
        return (
            f"BEGIN;SET LOCAL idle_in_transaction_session_timeout = {_ms(idle_s)};"
            f"SET LOCAL lock_timeout = {_ms(wait_s)};LOCK TABLE nodoubt.node IN SHARE MODE"
        )

    def reopen_gate(self) -> str:
        return "COMMIT"

    def release(self, terms: Terms) -> str:
        return "COMMIT"

    def prepare(self, branch: BranchId) -> str:
        return f"{_OURS}EXECUTE nodoubt_evidence('{branch.gid}',{branch.branch});PREPARE TRANSACTION '{branch.text()}'"

    def decide(self, branch: BranchId, participants: Mapping[int, str]) -> str:
        complete = "false" if participants else "true"
        return (
            f"{_OURS}{self.pass_gate}"
            f"EXECUTE nodoubt_decide('{branch.gid}','{participants_json(participants)}',{complete});COMMIT"
        )

    def finish(self, branch: BranchId, *, commit: bool) -> str:
        return f"{'COMMIT' if commit else 'ROLLBACK'} PREPARED '{branch.text()}'"

    def is_conflict(self, failure: StatementFailed) -> bool:
        return failure.code == UNIQUE_VIOLATION and failure.constraint == "nodoubt.decision_pkey"

    def is_retryable(self, failure: StatementFailed) -> bool:
        return failure.code[:2] in _RETRYABLE_CLASSES or failure.code in _RETRYABLE

    def is_missing(self, failure: StatementFailed) -> bool:
        return failure.code == UNDEFINED_OBJECT

    def is_locked(self, failure: StatementFailed) -> bool:
        return failure.code == LOCK_NOT_AVAILABLE

    async def undo(self, session: Session, branch: BranchId) -> bool:
        await session.command("ROLLBACK")
        return True

    async def prepared(self, session: Session, domain: str) -> Listing:
        rows = await session.query(
            "SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::float8 FROM pg_prepared_xacts"
            " WHERE database = current_database()"
        )
        read = [(parse_text(gid), age_s) for gid, age_s in rows]
        ours = [PreparedBranch(id=found, age_s=age_s) for found, age_s in read if found and found.domain == domain]
        return Listing(ours=tuple(ours), foreign=len(rows) - len(ours))

    async def end_owner(self, session: Session, branch: BranchId, handle: str) -> bool:
        if not handle:
            return True
        pid, started = handle.split(" ", 1)
        # A process id alone may belong to somebody else by now.
        await session.query(
            f"SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity"
            f" WHERE pid = {int(pid)} AND {_STARTED} = {literal(started)}"
        )
        rows = await session.query(
            f"SELECT 1 FROM pg_stat_activity WHERE pid = {int(pid)} AND {_STARTED} = {literal(started)}"
        )
        return not rows

    async def applied(self, session: Session, branches: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
        gids = literals(sorted({gid for gid, _ in branches}))
        rows = await session.query(f"SELECT gid, branch FROM nodoubt.branch WHERE gid IN ({gids})")
        return {(gid, branch) for gid, branch in rows} & set(branches)

    async def before_probe(self, session: Session, lock_timeout_s: float) -> float:
        ((now_s, *_),) = await session.query(
            f"SELECT {_NOW_S}, set_config('lock_timeout', '{_ms(lock_timeout_s)}', false),"
            " set_config('synchronous_commit', 'on', false),"
            " set_config('default_transaction_isolation', 'read committed', false)"
        )
        return float(now_s)

    async def probe(self, session: Session, gids: Sequence[str], until_s: float) -> Mapping[str, HomeSays]:
        values = ",".join(f"({literal(gid)})" for gid in sorted(gids))
        # ON CONFLICT DO NOTHING waits for a committer that holds the key, as a plain INSERT would. A transaction by itself:
        # between the packets of a longer one a line that goes dead would leave the key locked, and the gid in doubt.
        fresh = await session.query(
            f"INSERT INTO nodoubt.decision (gid, decision) SELECT gid, 'aborted' FROM (VALUES {values}) AS asked (gid)"
            f" WHERE {_NOW_S} < {until_s:f} ON CONFLICT DO NOTHING RETURNING gid"
        )
        answers = {gid: HomeSays.FRESH for (gid,) in fresh}
        known = [gid for gid in gids if gid not in answers]
        if known:
            answers.update({gid: row.says for gid, row in (await self.decisions(session, known)).items()})
        if len(answers) < len(set(gids)):
            raise too_late()
        return answers

    async def decisions(self, session: Session, gids: Sequence[str]) -> Mapping[str, DecisionRow]:
        rows = await session.query(f"{_SELECT} WHERE gid IN ({literals(gids)})")
        return {row[0]: decision_row(*row) for row in rows}

    async def unfinished(self, session: Session, limit: int) -> Sequence[DecisionRow]:
        rows = await session.query(
            f"{_SELECT} WHERE NOT complete AND decision <> 'aborted' ORDER BY gid LIMIT {int(limit)}"
        )
        return [decision_row(*row) for row in rows]

    def complete(self, gids: Sequence[str]) -> str:
        return (
            "BEGIN;SET LOCAL synchronous_commit = on;"
            "UPDATE nodoubt.decision SET complete = true, decided_at = DEFAULT"
            f" WHERE gid IN ({literals(gids)}) AND NOT complete;COMMIT"
        )

    def drop_evidence(self, gids: Sequence[str]) -> str:
        return f"DELETE FROM nodoubt.branch WHERE gid IN ({literals(gids)})"

    def old_evidence(self, before_gid: str, limit: int) -> str:
        return f"SELECT gid FROM nodoubt.branch WHERE gid < {literal(before_gid)} ORDER BY gid DESC LIMIT {int(limit)}"

    async def purge(self, session: Session, before_gid: str, retention_s: float, limit: int) -> int:
        tag = await session.command(
            "DELETE FROM nodoubt.decision WHERE gid IN (SELECT gid FROM nodoubt.decision"
            f" WHERE gid < {literal(before_gid)} AND (complete OR decision = 'aborted')"
            f" AND decided_at < clock_timestamp() - make_interval(secs => {retention_s:f}) ORDER BY gid LIMIT {int(limit)})"
        )
        return int(tag.rpartition(" ")[2])

    def resolve(self, gid: str, *, commit: bool, reason: str) -> str:
        decision = "committed" if commit else "aborted"
        return (
            f"BEGIN;SET LOCAL synchronous_commit = on;{self.pass_gate}INSERT INTO nodoubt.decision (gid, decision, reason)"
            f" VALUES ({literal(gid)}, '{decision}', {literal(reason)}) ON CONFLICT DO NOTHING;COMMIT"
        )

    def replace_broken(self, row: DecisionRow, *, commit: bool, reason: str) -> str:
        decision, participants = row.raw or ("", "")
        became = "committed" if commit else "aborted"
        return (
            f"BEGIN;SET LOCAL synchronous_commit = on;{self.pass_gate}UPDATE nodoubt.decision"
            f" SET decision = '{became}', participants = {literal(participants_json(row.participants))},"
            f" reason = {literal(reason)} WHERE gid = {literal(row.gid)}"
            f" AND {_is('decision', decision)} AND {_is('participants', participants)};COMMIT"
        )

    async def check_own_session(self, session: Session, name: str, beside: Beside) -> None:
        await check_own_session(session, name, beside)

    async def check_identity(self, session: Session, name: str, domain: str) -> None:
        self._database = check_identity(await tables.identity(session), name, domain).id

    async def inspect(self, session: Session, name: str, domain: str) -> Sequence[Finding]:
        return await inspect(session, name, domain)

    async def durable(self, session: Session) -> Sequence[Finding]:
        return await durable(session)

    async def install(self, session: Session, name: str, domain: str, random: str) -> str:
        return await tables.install(session, name, domain, random)

    def ddl(self, name: str, domain: str) -> str:
        return tables.ddl(name, domain)


def _limit(terms: Terms) -> str:
    return f"SET LOCAL lock_timeout = {_ms(terms.lock_wait_s)};" if terms.lock_wait_s > 0 else ""


def _ms(seconds: float) -> int:
    """A limit as the server takes it, where 0 would be none."""
    return max(1, int(seconds * 1000))


def _is(column: str, text: str) -> str:
    """Compare by bytes: nobody knows what stands in a row that cannot be read."""
    return f"convert_to({column}, 'UTF8') = decode('{text.encode().hex()}', 'hex')"
