"""The page about isolation, made from the recorded table: ``python -m tests.isolation.page``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent

from tests.isolation.expected import Table, load
from tests.isolation.scripts import SCRIPTS
from tests.isolation.verdict import MEANING, Verdict

PAGE = Path(__file__).parents[2] / "docs" / "isolation.md"

_MARKS = {
    verdict: f"**{verdict}**" if verdict in (Verdict.OCCURS, Verdict.OTHER) else str(verdict) for verdict in Verdict
}

_TEXT = """\
# Isolation between nodes

What transactions over several databases see of each other. Made by `make docs` from `tests/isolation/`, whose tests
run every line of these tables on real servers, through the public manager.

## What is promised

nodoubt's transactions are **atomic**: each happens on all of its nodes or on none, whatever crashes. Isolation stays
what each node gives by itself, at the level that it is set to; between the nodes nothing is added. So, in words:

- Who writes rows that an unfinished transaction wrote waits for its end **on all nodes**: a branch keeps its locks
  from PREPARE to COMMIT. No two transactions win on one node each (G0).
- Nobody sees what is rolled back, not even after PREPARE, or what is replaced before the commit, except at READ
  UNCOMMITTED (G1a, G1b).
- Each node keeps the promise of its own level for what happens **on that node**.

What is not promised, on any pair of nodes, at any level but those where the tables say otherwise:

- **One instant.** The nodes commit one after another. A reader that comes in between sees the new state on one and
  the old one on another (fractured read), also when he opens all of his snapshots at once. And who opens them one by
  one, at his first read of each node, may see one node before a transaction and another after it (read skew),
  whatever the time between the two COMMITs.
- **Rules that span nodes.** Two transactions that each read two nodes and write one of them can break together what
  each of them checked (write skew), at SERIALIZABLE, too: each server sees only its half of the circle.
- **Deadlocks that span branches end by time-out alone**, also between two databases of one server: a branch is a
  session of its own, and no server knows which belong together. What ends them is `timeout` of the transaction, the
  server's own limit (`lock_timeout` of PostgreSQL, `innodb_lock_wait_timeout` of MariaDB) or `acquire_timeout_s` of a
  SQLite node. The error may be retried.

What helps today:

- With MariaDB alone, SERIALIZABLE: there each SELECT takes locks, and a branch keeps them until it is committed. Of
  all the mixes below it is the only one without an anomaly. Its price is waiting, and deadlocks.
- Touch the nodes in the same order everywhere: without opposite orders there are few deadlocks.
- Don't take a row that all must lock for a guard of another node: home lets go of its locks with the decision, before
  the other branches are committed.

## How to set a level

A level belongs to the connection, so it stands in the configuration:

```toml
[nodes.orders]
url = "postgresql://shop@localhost/orders?options=-c%20default_transaction_isolation%3Dserializable"

[nodes.stock]
url = "mariadb://shop@localhost/stock"
options = { init_command = "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE" }
```

On PostgreSQL a block may also begin with `SET TRANSACTION ISOLATION LEVEL …`, for itself. On MariaDB it cannot: the
branch is open by then, and the server refuses (error 1568). SQLite has one level: one writer at a time, and a
read-only branch reads a snapshot from its first statement on. What the tables call SNAPSHOT is MariaDB's REPEATABLE
READ with `SET SESSION innodb_snapshot_isolation = ON` as its `init_command`.

## What happens

Nodes x and z are of the first kind that a table names, y and w of the second; home is the node that a transaction
writes to first. Each entry is what came of a script; what it says was computed from what was read, from the tables
afterwards, and from the servers' own lists of who waits.

"""


def page(table: Table) -> str:
    """The whole page."""
    words = "".join(f"- {_MARKS[verdict]}: {meaning}.\n" for verdict, meaning in MEANING.items())
    tables = "\n".join("\n".join(_table(title, by_level)) + "\n" for title, by_level in table.items())
    scripts = "\n".join("\n".join(_script(name)) + "\n" for name in SCRIPTS)
    return f"{_TEXT}{words}\n{tables}\n{_SCRIPTS}\n{scripts}"


_SCRIPTS = """\
## The scripts

The rows are (1, 10) and (2, 20) on every node. `from` reads in a read-only branch, `on` works in one that may write.
A transaction that waits takes its next steps when it goes on. *Held back* means that all of a transaction is done but
the last word to one branch.
"""


def _table(title: str, by_level: Mapping[str, Mapping[str, Verdict]]) -> Iterator[str]:
    nodes = title.split(" + ")
    yield f"### {title}\n"
    if len(nodes) > 2:
        yield f"Home of every transaction is the third node, {nodes[2]}.\n"
    yield f"| | {' | '.join(by_level)} |"
    yield "|---" * (1 + len(by_level)) + "|"
    for name, script in SCRIPTS.items():
        yield f"| {script.title} | {' | '.join(_MARKS[verdicts[name]] for verdicts in by_level.values())} |"


def _script(name: str) -> Iterator[str]:
    script = SCRIPTS[name]
    yield f"### {script.title}\n"
    yield f"Harm: {script.harm}.\n"
    yield f"```text\n{dedent(script.text).strip()}\n```"


if __name__ == "__main__":
    PAGE.write_text(page(load()), "utf-8")
