"""What a block may not do on MariaDB and MySQL, and what it leaves behind in its session. Data only.

The server refuses most of it as well (1399 inside an XA transaction, 1792 in a read-only session); these rules name the
statement while the user is still looking at it. The lists follow the manual's "SQL statements that cause an implicit commit".
"""

from __future__ import annotations

import re

from nodoubt.nodes.statements import MYSQL, Rule, Rules, starts

_ENDS = "the block ends the transaction by itself: leave it to commit, raise or call tx.rollback() to abort"
_COMMITS = "the server commits implicitly before this statement, so it cannot be part of a transaction"
_WEAKENS = "a snapshot that writes rests on it: set it in the server's configuration, or in the driver's init_command"
_BOUND = "it ends a transaction whose program is stopped, before recovery forgets that it aborted it"
_LOCKS = "nodoubt keeps a named lock in the session, by which recovery finds it"


def _anywhere(pattern: str) -> re.Pattern[str]:
    return re.compile(rf".*(?:{pattern})", re.IGNORECASE | re.DOTALL)


RULES = Rules(
    lexicon=MYSQL,
    forbidden=(
        # BEGIN NOT ATOMIC opens a compound statement, not a transaction.
        Rule(pattern=starts(r"BEGIN(?!\s+NOT\s+ATOMIC)|START TRANSACTION|COMMIT|XA"), why=_ENDS),
        Rule(pattern=starts(r"ROLLBACK(?!\s+(?:WORK\s+)?TO\b)"), why=_ENDS),
        Rule(pattern=starts(r"SET\b[^;]*\bautocommit"), why=_ENDS),
        Rule(pattern=starts("LOCK TABLES?|UNLOCK TABLES?|LOCK INSTANCE|UNLOCK INSTANCE"), why=_COMMITS),
        Rule(pattern=starts(r"CREATE(?!\s+(?:OR\s+REPLACE\s+)?TEMPORARY\b)|DROP(?!\s+TEMPORARY\b)"), why=_COMMITS),
        Rule(pattern=starts("ALTER|RENAME|TRUNCATE|GRANT|REVOKE|SET PASSWORD|SET (?:DEFAULT )?ROLE"), why=_COMMITS),
        Rule(pattern=starts("ANALYZE (?:LOCAL |NO_WRITE_TO_BINLOG )?TABLES?"), why=_COMMITS),
        Rule(pattern=starts("CHECK (?:TABLE|VIEW)|OPTIMIZE|REPAIR|CACHE INDEX|LOAD INDEX"), why=_COMMITS),
        Rule(pattern=starts("FLUSH|RESET|PURGE|INSTALL|UNINSTALL|BACKUP|SHUTDOWN|RESTART|CLONE|IMPORT"), why=_COMMITS),
        Rule(pattern=starts("CHANGE (?:MASTER|REPLICATION)|(?:START|STOP) (?:ALL )?(?:SLAVES?|REPLICA)"), why=_COMMITS),
        Rule(pattern=starts(r"SET\b[^;]*\binnodb_snapshot_isolation"), why=_WEAKENS),
        Rule(pattern=starts(r"SET\b[^;]*\b(?:idle_(?:\w+_)?transaction_timeout|wait_timeout)"), why=_BOUND),
        Rule(pattern=_anywhere(r"\bRELEASE_ALL_LOCKS\s*\("), why=_LOCKS),
        Rule(pattern=_anywhere(r"/\*M?!"), why="a comment that the server executes hides what the statement does"),
    ),
    lasting=re.compile(
        r"^SET\s+(?!STATEMENT\b|TRANSACTION\b)|@\w+\s*:=|\bINTO\s+@|\bGET_LOCK\s*\(|\bTEMPORARY\b|^USE\b|^PREPARE\b|^DEALLOCATE\b"
        r"|^HANDLER\b|^EXECUTE\b|^BEGIN\b|^CALL\b",
        re.IGNORECASE,
    ),
)
