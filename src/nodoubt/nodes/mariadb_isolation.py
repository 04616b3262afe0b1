"""What MariaDB and MySQL are told for the terms of a branch, and for home's gate. Texts only.

- A level can be set for the next transaction alone, also for one of XA. What else the terms ask for are settings of the
  session: each is kept in a user variable, which no clean session lost, and set back when other terms come.
- The first consistent read takes the snapshot of a branch, also when it finds nothing.
- At SERIALIZABLE every read locks what it saw, and XA PREPARE keeps those locks, which it does not at other levels.
- Whoever decides reads ``nodoubt_node`` in the same statement. So he holds its metadata lock until his commit is seen, and
  LOCK TABLES … WRITE keeps him off. READ would not do: writers, ``nodoubt_decision``'s for example, come before it
  for as long as there are any, and one behind whom others wait shuts out every opener that comes later.
- His commit may not be on disk by then: since MariaDB 10.6 the server waits for that before it answers, but after it let go of
  all locks. So what is found behind a closed gate is forced before anybody acts on it.
- WRITE in turn comes before all who decide. A named lock lets one opener ask for it at a time, so that they get in between.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from nodoubt.nodes.contract import Isolation, Terms
from nodoubt.nodes.dialect import Session

#: A write fails over what the snapshot does not show; MariaDB since 10.6.18, 10.11.8, 11.0.6, 11.1.5, 11.2.4 and 11.4.2.
SNAPSHOT_ISOLATION = "innodb_snapshot_isolation"
#: Limits for waiting, in whole seconds: for rows, and for tables.
_LIMITS = ("innodb_lock_wait_timeout", "lock_wait_timeout")

#: A number that hardly any other session has; ids of connections outgrow the column.
_MINE = "CONNECTION_ID() MOD 2147483648"

_LEVELS = {Isolation.SNAPSHOT: "REPEATABLE READ", Isolation.SERIALIZABLE: "SERIALIZABLE"}


def tune(session: Session, terms: Terms, known: Collection[str]) -> str:
    """What goes before a branch's beginning. ``known`` are those of the settings that the server has."""
    wanted = {}
    if terms.isolation is not Isolation.ATOMIC and terms.lock_wait_s > 0:
        wanted = dict.fromkeys(_LIMITS, str(math.ceil(terms.lock_wait_s)))
    if terms.isolation is Isolation.SNAPSHOT and SNAPSHOT_ISOLATION in known:
        # Readers, too: a read that locks would show later commits.
        wanted[SNAPSHOT_ISOLATION] = "ON"
    tuning = ",".join(f"{name}={value}" for name, value in wanted.items())
    level = f"SET TRANSACTION ISOLATION LEVEL {_LEVELS[terms.isolation]};" if terms.isolation in _LEVELS else ""
    if tuning == session.tuning:
        return level
    keep = ",".join(f"@nodoubt_{name}=@@{name}" for name in known)
    change = ",".join(f"{name}={wanted.get(name, f'@nodoubt_{name}')}" for name in known)
    before, session.tuning = session.tuning, tuning
    return ("" if before else f"SET {keep};") + f"SET SESSION {change};{level}"


def tunable(snapshot_isolation: bool) -> tuple[str, ...]:
    """The settings that a server has."""
    return (*_LIMITS, SNAPSHOT_ISOLATION) if snapshot_isolation else _LIMITS


def lost_updates(version: str, *, is_mariadb: bool) -> str:
    """Why a server without that setting gives no snapshot to a branch that writes."""
    upgrade = "upgrade to MariaDB 10.6.18, 10.11.8, 11.4.2 or newer, " if is_mariadb else ""
    return (
        f"{version} has no {SNAPSHOT_ISOLATION}, so a branch that writes could overwrite what its snapshot does not show:"
        f" {upgrade}open it read-only, or ask for {Isolation.SERIALIZABLE}"
    )


def passing(schema: str, value: str) -> str:
    """An expression for a value, in a statement that passes the gate."""
    return f"IFNULL((SELECT '' FROM {schema}nodoubt_node WHERE 0),{value})"


def close_gate(schema: str, mark: str, wait_s: float, idle_s: float) -> str:
    """Wait for those who decide, and keep all others from it."""
    return (
        f"SET SESSION lock_wait_timeout={math.ceil(wait_s)},wait_timeout={int(idle_s)};"
        f"SELECT GET_LOCK('nodoubt:gate:{mark}',{wait_s:f});LOCK TABLES {schema}nodoubt_node WRITE"
    )


def reopen_gate(mark: str) -> str:
    """First those who wait to decide, then the next opener."""
    return f"UNLOCK TABLES;DO RELEASE_LOCK('nodoubt:gate:{mark}');SET SESSION wait_timeout=DEFAULT"


def forced(schema: str, read_committed: str) -> str:
    """A transaction that leaves nothing behind, and whose commit brings all commits before it to the disk.

    From 10.6 on others see a commit, and get its locks, before it is there. If the server dies just then, it never was
    (MDEV-24341).
    """
    return (
        f"{read_committed}START TRANSACTION;INSERT INTO {schema}nodoubt_branch VALUES ('',{_MINE});"
        f"DELETE FROM {schema}nodoubt_branch WHERE gid='' AND branch={_MINE};COMMIT"
    )
