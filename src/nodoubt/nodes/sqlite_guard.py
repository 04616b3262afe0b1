"""What a user's statements may do to a branch of SQLite, as data. SQLite's own parser says what a statement does.

Its authorizer is asked while a statement is compiled, with one action after another; here each action is judged by its name
in the manual (section "Authorizer Action Codes"). No driver is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from nodoubt.errors import GuardError
from nodoubt.nodes.guard import Guard, shorten
from nodoubt.nodes.statements import SQLITE, Rules

#: Our tables: their rows are what recovery believes.
OWN_TABLES = re.compile(r"nodoubt_", re.IGNORECASE)

_ENDS = "the block ends the transaction by itself: leave it to commit, raise or call tx.rollback() to abort"
_FILES = "a transaction over several attached files is not atomic in WAL mode; make the other file a node of its own"
_SCHEMA = (
    "a prepared branch is carried by a changeset, which holds rows but no schema change;"
    " do it in a transaction of this node alone, or make this node its home"
)
_PRAGMA = "a PRAGMA with a value may change how safely the connection commits; those that only read are allowed"
_KEY = (
    "a changeset skips tables without a declared PRIMARY KEY, so this write would be lost after a crash;"
    " give the table a primary key, or make this node the transaction's home"
)
_OURS = "the tables of nodoubt are what recovery believes; they are not for the block to write"

_MINE = "the connection belongs to nodoubt for as long as it is open"
WATCHED = "nodoubt watches the statements of the block through it"
BEHIND = "it would write behind the back of the changeset that carries the branch"
#: What of apsw's connection a block may neither call nor set, and why.
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        ("close", "aclose", "as_async", "file_control", "filecontrol", "config", "set_busy_handler"), _MINE
    ),
    **dict.fromkeys(("setbusyhandler", "set_commit_hook", "setcommithook", "cursor_factory", "setlk_timeout"), _MINE),
    **dict.fromkeys(("set_authorizer", "setauthorizer", "authorizer", "preupdate_hook"), WATCHED),
    **dict.fromkeys(("set_exec_trace", "setexectrace", "exec_trace", "exectrace"), WATCHED),
    **dict.fromkeys(("deserialize", "wal_checkpoint", "set_wal_hook", "setwalhook", "wal_autocheckpoint"), BEHIND),
}

#: By these statements compile in the block that do not compile for recovery: see ``BranchConnection``.
_REGISTERING = (
    *("create_collation", "create_scalar_function", "create_aggregate_function", "create_window_function"),
    *("createcollation", "createscalarfunction", "createaggregatefunction", "overload_function"),
    *("collation_needed", "collationneeded", "load_extension", "loadextension", "overloadfunction"),
)
LIMITS: Mapping[str, str] = {**REFUSED, **dict.fromkeys(_REGISTERING, "")}

_FORBIDDEN: Mapping[str, str] = {"SQLITE_TRANSACTION": _ENDS, "SQLITE_ATTACH": _FILES, "SQLITE_DETACH": _FILES}
_DDL = frozenset(
    {
        *("SQLITE_ALTER_TABLE", "SQLITE_ANALYZE", "SQLITE_REINDEX"),
        *(
            f"SQLITE_{act}_{what}"
            for act in ("CREATE", "DROP")
            for what in (
                *("INDEX", "TABLE", "TRIGGER", "VIEW", "VTABLE"),
                *("TEMP_INDEX", "TEMP_TABLE", "TEMP_TRIGGER", "TEMP_VIEW"),
            )
        ),
    }
)
_WRITES = frozenset({"SQLITE_INSERT", "SQLITE_UPDATE", "SQLITE_DELETE"})
#: What these take is a question, not a setting; the last one ends with the transaction.
_PRAGMAS_WITH_VALUE = frozenset(
    {
        *("table_info", "table_xinfo", "table_list", "index_info", "index_list", "index_xinfo"),
        *("foreign_key_list", "foreign_key_check", "integrity_check", "quick_check", "defer_foreign_keys"),
    }
)
#: These do something although they take no value.
_PRAGMAS_ACTIVE = frozenset({"incremental_vacuum", "optimize", "wal_checkpoint"})

#: Text rules do not serve here: SQLite's parser is asked instead.
RULES = Rules(lexicon=SQLITE, forbidden=(), lasting=re.compile(r"(?!)"))

_GAP = r"(?:\s|--[^\n]*\n|/\*.*?\*/)"
_SAVEPOINT = re.compile(
    rf"{_GAP}*(?:(?P<set>SAVEPOINT)|(?P<to>ROLLBACK(?:{_GAP}+TRANSACTION)?{_GAP}+TO)(?:{_GAP}+SAVEPOINT)?"
    rf"|(?P<release>RELEASE)(?:{_GAP}+SAVEPOINT)?)"
    rf"{_GAP}*(?P<name>(?:\"[^\"]*\")+|(?:'[^']*')+|\[[^]]*\]|(?:`[^`]*`)+|[^\s;/]+)",
    re.IGNORECASE | re.DOTALL,
)


class SQLiteGuard(Guard):
    """The rules of one branch. SQLite would commit a transaction in which a statement failed: failures are remembered."""

    __slots__ = ("_compiled", "_has_key", "touched", "unfinished")

    def __init__(self, node: str, gid: str, *, is_home: bool, has_key: Callable[[str], bool]) -> None:
        super().__init__(node, gid, RULES, is_home=is_home)
        #: Tables of the main database that were, or may have been, written.
        self.touched: set[str] = set()
        #: Cursors of texts with several statements, or several rows of values: what is unread there was not run.
        self.unfinished: dict[int, Any] = {}
        self._has_key = has_key
        self._compiled = ""

    def statement(self, sql: str) -> Guard:
        """Enter a call that compiles or runs statements; SQLite itself tells of each of them."""
        self.check_open()
        if not self._busy.acquire(blocking=False):
            raise self.refuse(
                f"two operations at once ({shorten(sql)})",
                "one connection serves one thread at a time",
                "give each thread or task a transaction of its own",
            )
        self._compiled = sql
        self._reading = None
        return self

    def running(self, sql: str) -> None:
        """One statement is about to run: follow the savepoints, those of ``with connection:``, too."""
        if step := _SAVEPOINT.match(sql):
            kind = "set" if step["set"] else "to" if step["to"] else "release"
            self.savepoint(kind, step["name"].strip("\"'`[]").lower())

    def judge(self, action: str, first: str | None, second: str | None, database: str | None) -> GuardError | None:
        """What the authorizer was asked: an error to raise, or None."""
        name = first or ""
        if action in _FORBIDDEN:
            return self._refuse(_FORBIDDEN[action])
        if action == "SQLITE_PRAGMA":
            allowed = name.lower() not in _PRAGMAS_ACTIVE if second is None else name.lower() in _PRAGMAS_WITH_VALUE
            return None if allowed else self._refuse(_PRAGMA)
        if action in _DDL:
            # ALTER TABLE names the database first, REINDEX and ANALYZE the table or index.
            of_temp = (first if action == "SQLITE_ALTER_TABLE" else database) == "temp"
            # ANALYZE and REINDEX go through all tables, and change no row. Of an index or trigger the second is the table.
            is_ours = any(OWN_TABLES.match(name or "") for name in (first, second))
            if is_ours and action not in ("SQLITE_ANALYZE", "SQLITE_REINDEX"):
                return self._refuse(_OURS)
            return None if self.is_home or of_temp else self._refuse(_SCHEMA)
        if action in _WRITES and database not in (None, "temp"):
            return self._judge_write(name)
        return None

    def _judge_write(self, table: str) -> GuardError | None:
        if OWN_TABLES.match(table):
            return self._refuse(_OURS)
        if self.is_home or table in ("sqlite_master", "sqlite_schema"):
            # The schema table is written by DDL alone, which is asked about on its own; PRAGMA writable_schema is refused.
            return None
        if table not in self.touched:
            if not self._has_key(table):
                return self._refuse(f"{_KEY} (table {table!r})")
            self.touched.add(table)
        return None

    def _refuse(self, why: str) -> GuardError:
        return self.refuse(shorten(self._compiled), why)


def several(sql: str) -> bool:
    """Whether a text may hold more than one statement; a semicolon inside a string counts, which costs only memory."""
    return ";" in sql.rstrip().rstrip(";")
