"""The list of anomalies, each as a script over several databases. Data only; ``notation`` says how to read it.

The names are those of Adya's thesis and of the Hermitage tests of single databases; here every transaction spans databases, or
what it reads does. The rows are (1, 10) and (2, 20) on every node.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.isolation.notation import Script

_SCRIPTS = (
    Script(
        name="g0",
        title="G0, dirty write",
        harm="two writers of the same rows win on one database each",
        text="""
            t1 on x: UPDATE item SET v = 11 WHERE k = 1
            t2 on x: UPDATE item SET v = 12 WHERE k = 1
            t1 on y: UPDATE item SET v = 11 WHERE k = 1
            t1 commits
            t2 on y: UPDATE item SET v = 12 WHERE k = 1
            t2 commits
        """,
        occurred=lambda seen: seen.state["x"][1] != seen.state["y"][1],
    ),
    Script(
        name="g0-opposite",
        title="G0, opposite lock order",
        harm="the same, each writer beginning on another database",
        text="""
            t1 on x: UPDATE item SET v = 11 WHERE k = 1
            t2 on y: UPDATE item SET v = 12 WHERE k = 1
            t1 on y: UPDATE item SET v = 11 WHERE k = 1
            t2 on x: UPDATE item SET v = 12 WHERE k = 1
            t1 commits
            t2 commits
        """,
        occurred=lambda seen: seen.state["x"][1] != seen.state["y"][1],
    ),
    Script(
        name="g1a",
        title="G1a, aborted read",
        harm="a reader sees what is then rolled back",
        text="""
            t1 on x: UPDATE item SET v = 101 WHERE k = 1
            t1 on y: UPDATE item SET v = 101 WHERE k = 1
            a = t2 from x: SELECT v FROM item WHERE k = 1
            b = t2 from y: SELECT v FROM item WHERE k = 1
            t1 rolls back
            t2 commits
        """,
        occurred=lambda seen: 101 in (seen.a, seen.b),
    ),
    Script(
        name="g1a-prepared",
        title="G1a, aborted read after PREPARE",
        harm="a reader sees what was prepared and is then rolled back, as another database refused",
        text="""
            t1 on x: UPDATE item SET v = 101 WHERE k = 1
            t1 on y: UPDATE item SET v = 101 WHERE k = 1
            t1 fails on x
            t1 commits, y held back
            a = t2 from x: SELECT v FROM item WHERE k = 1
            b = t2 from y: SELECT v FROM item WHERE k = 1
            t1 goes on
            t2 commits
        """,
        occurred=lambda seen: 101 in (seen.a, seen.b),
    ),
    Script(
        name="g1b",
        title="G1b, intermediate read",
        harm="a reader sees a value that its writer then replaces",
        text="""
            t1 on x: UPDATE item SET v = 101 WHERE k = 1
            t1 on y: UPDATE item SET v = 101 WHERE k = 1
            a = t2 from x: SELECT v FROM item WHERE k = 1
            b = t2 from y: SELECT v FROM item WHERE k = 1
            t1 on x: UPDATE item SET v = 11 WHERE k = 1
            t1 on y: UPDATE item SET v = 11 WHERE k = 1
            t1 commits
            t2 commits
        """,
        occurred=lambda seen: 101 in (seen.a, seen.b),
    ),
    Script(
        name="g1c",
        title="G1c, circular information flow",
        harm="two transactions see each other's writes",
        text="""
            t1 on x: UPDATE item SET v = 11 WHERE k = 1
            t2 on y: UPDATE item SET v = 22 WHERE k = 2
            a = t1 from y: SELECT v FROM item WHERE k = 2
            b = t2 from x: SELECT v FROM item WHERE k = 1
            t1 commits
            t2 commits
        """,
        occurred=lambda seen: seen.all_committed("t1", "t2") and (seen.a, seen.b) == (22, 11),
    ),
    Script(
        name="fractured",
        title="Fractured read, between the two COMMITs",
        harm="a reader sees one half of a transfer",
        text="""
            t1 on x: UPDATE item SET v = 11 WHERE k = 1
            t1 on y: UPDATE item SET v = 11 WHERE k = 1
            t1 commits, y held back
            a = t2 from x: SELECT v FROM item WHERE k = 1
            b = t2 from y: SELECT v FROM item WHERE k = 1
            t2 commits
            t1 goes on
        """,
        occurred=lambda seen: (seen.a, seen.b) == (11, 10),
    ),
    Script(
        name="fractured-writer",
        title="Fractured read by a writer that comes second on one node",
        harm="a row that all writers lock on one node does not guard what they read on another",
        text="""
            t1 on x: UPDATE item SET v = v + 1 WHERE k = 2
            t1 on y: UPDATE item SET v = 11 WHERE k = 1
            t1 commits, y held back
            t2 on x: UPDATE item SET v = v + 1 WHERE k = 2
            a = t2 on x: SELECT v FROM item WHERE k = 2
            b = t2 from y: SELECT v FROM item WHERE k = 1
            t2 commits
            t1 goes on
        """,
        occurred=lambda seen: seen.all_committed("t1", "t2") and (seen.a, seen.b) == (22, 10),
    ),
    Script(
        name="otv",
        title="OTV, observed transaction vanishes",
        harm="a reader sees a transaction, and at its next look does not",
        text="""
            t1 on x: UPDATE item SET v = 11 WHERE k = 1
            t1 on y: UPDATE item SET v = 19 WHERE k = 1
            t2 on x: UPDATE item SET v = 12 WHERE k = 1
            t1 commits
            a = t3 from x: SELECT v FROM item WHERE k = 1
            t2 on y: UPDATE item SET v = 18 WHERE k = 1
            b = t3 from y: SELECT v FROM item WHERE k = 1
            t2 commits, y held back
            c = t3 from x: SELECT v FROM item WHERE k = 1
            d = t3 from y: SELECT v FROM item WHERE k = 1
            t3 commits
            t2 goes on
        """,
        occurred=lambda seen: (seen.c, seen.d) == (12, 19),
    ),
    Script(
        name="g-single-lazy",
        title="G-single, read skew, lazy snapshots",
        harm="a report reads one database before a transfer and the other after it",
        text="""
            a = t1 from x: SELECT v FROM item WHERE k = 1
            t2 on x: UPDATE item SET v = 12 WHERE k = 1
            t2 on y: UPDATE item SET v = 18 WHERE k = 1
            t2 commits
            b = t1 from y: SELECT v FROM item WHERE k = 1
            t1 commits
        """,
        occurred=lambda seen: (seen.a, seen.b) == (10, 18),
    ),
    Script(
        name="g-single-eager",
        title="G-single, read skew, eager snapshots",
        harm="the same, the report having looked at both databases before",
        text="""
            a = t1 from x: SELECT v FROM item WHERE k = 1
            b = t1 from y: SELECT v FROM item WHERE k = 2
            t2 on x: UPDATE item SET v = 12 WHERE k = 1
            t2 on y: UPDATE item SET v = 18 WHERE k = 1
            t2 commits
            c = t1 from y: SELECT v FROM item WHERE k = 1
            t1 commits
        """,
        occurred=lambda seen: (seen.a, seen.c) == (10, 18),
    ),
    Script(
        name="p4",
        title="P4, lost update",
        harm="two programs read a counter and write it back; one increment is lost",
        text="""
            a = t1 on x: SELECT v FROM item WHERE k = 1
            b = t2 on x: SELECT v FROM item WHERE k = 1
            t1 on x: UPDATE item SET v = {a} + 1 WHERE k = 1
            t1 on y: UPDATE item SET v = {a} + 1 WHERE k = 1
            t2 on x: UPDATE item SET v = {b} + 2 WHERE k = 1
            t1 commits
            t2 on y: UPDATE item SET v = {b} + 2 WHERE k = 1
            t2 commits
        """,
        occurred=lambda seen: seen.all_committed("t1", "t2") and seen.state["x"][1] != 13,
    ),
    Script(
        name="p4-crossed",
        title="P4, lost update, crossed",
        harm="each of two programs writes on one database what it computed from the other",
        text="""
            a = t1 from x: SELECT v FROM item WHERE k = 1
            b = t2 from y: SELECT v FROM item WHERE k = 1
            t1 on y: UPDATE item SET v = {a} + 1 WHERE k = 1
            t2 on x: UPDATE item SET v = {b} + 1 WHERE k = 1
            t1 commits
            t2 commits
        """,
        occurred=lambda seen: seen.all_committed("t1", "t2") and (seen.a, seen.b) == (10, 10),
    ),
    Script(
        name="p4-across",
        title="P4, lost update, read on one node and written on another",
        harm="a program writes on one database what it computed from the other, over what was written there meanwhile",
        text="""
            b = t2 from y: SELECT v FROM item WHERE k = 1
            a = t1 on x: SELECT v FROM item WHERE k = 1
            t1 on x: UPDATE item SET v = {a} + 1 WHERE k = 1
            t1 on y: UPDATE item SET v = {a} + 1 WHERE k = 1
            t1 commits
            t2 on x: UPDATE item SET v = {b} + 2 WHERE k = 1
            t2 commits
        """,
        occurred=lambda seen: seen.all_committed("t1", "t2") and seen.state["x"][1] == 12,
    ),
    Script(
        name="pmp",
        title="PMP, predicate-many-preceders",
        harm="a search misses a transaction on one database and finds it on the other",
        text="""
            a = t1 from x: SELECT count(*) FROM item WHERE v % 3 = 0
            t2 on x: INSERT INTO item VALUES (3, 30)
            t2 on y: INSERT INTO item VALUES (3, 30)
            t2 commits
            b = t1 from y: SELECT count(*) FROM item WHERE v % 3 = 0
            t1 commits
        """,
        occurred=lambda seen: (seen.a, seen.b) == (0, 1),
    ),
    Script(
        name="g2-item",
        title="G2-item, write skew",
        harm="two transactions keep a rule over two databases, and together they break it",
        text="""
            a = t1 on x: SELECT v FROM item WHERE k = 1
            b = t1 on y: SELECT v FROM item WHERE k = 1
            c = t2 on x: SELECT v FROM item WHERE k = 1
            d = t2 on y: SELECT v FROM item WHERE k = 1
            t1 on x: UPDATE item SET v = 0 WHERE k = 1
            t2 on y: UPDATE item SET v = 0 WHERE k = 1
            t1 commits
            t2 commits
        """,
        occurred=lambda seen: seen.all_committed("t1", "t2") and (seen.b, seen.c) == (10, 10),
    ),
    Script(
        name="g2-item-read-only",
        title="G2-item, write skew, reading in read-only branches",
        harm="the same, where each transaction opens read-only what it does not write",
        text="""
            a = t1 on x: SELECT v FROM item WHERE k = 1
            b = t1 from y: SELECT v FROM item WHERE k = 1
            c = t2 from x: SELECT v FROM item WHERE k = 1
            d = t2 on y: SELECT v FROM item WHERE k = 1
            t1 on x: UPDATE item SET v = 0 WHERE k = 1
            t2 on y: UPDATE item SET v = 0 WHERE k = 1
            t1 commits
            t2 commits
        """,
        occurred=lambda seen: seen.all_committed("t1", "t2") and (seen.b, seen.c) == (10, 10),
    ),
    Script(
        name="g2",
        title="G2, write skew by predicates",
        harm="the same for a rule over rows that are not there yet",
        text="""
            a = t1 on x: SELECT count(*) FROM item WHERE v % 3 = 0
            b = t1 on y: SELECT count(*) FROM item WHERE v % 3 = 0
            c = t2 on x: SELECT count(*) FROM item WHERE v % 3 = 0
            d = t2 on y: SELECT count(*) FROM item WHERE v % 3 = 0
            t1 on x: INSERT INTO item VALUES (3, 30)
            t2 on y: INSERT INTO item VALUES (4, 42)
            t1 commits
            t2 commits
        """,
        occurred=lambda seen: seen.all_committed("t1", "t2") and (seen.b, seen.c) == (0, 0),
    ),
    Script(
        name="read-only",
        title="Fekete's read-only anomaly",
        harm="a report shows a state that was never there, although the writers are in order without it",
        text="""
            a = t1 on x: SELECT v FROM item WHERE k = 1
            b = t1 from y: SELECT v FROM item WHERE k = 1
            t2 on y: UPDATE item SET v = 30 WHERE k = 1
            t2 commits
            c = t3 from x: SELECT v FROM item WHERE k = 1
            d = t3 from y: SELECT v FROM item WHERE k = 1
            t3 commits
            t1 on x: UPDATE item SET v = {a} + {b} WHERE k = 1
            t1 commits
        """,
        occurred=lambda seen: seen.all_committed("t1", "t2", "t3") and (seen.b, seen.c, seen.d) == (10, 10, 30),
    ),
    Script(
        name="long-fork",
        title="Long fork over four nodes",
        harm="two readers see two transactions in opposite order",
        text="""
            a = t3 from y: SELECT v FROM item WHERE k = 1
            b = t3 from w: SELECT v FROM item WHERE k = 1
            c = t4 from x: SELECT v FROM item WHERE k = 1
            d = t4 from z: SELECT v FROM item WHERE k = 1
            t1 on x: UPDATE item SET v = 11 WHERE k = 1
            t1 on z: UPDATE item SET v = 11 WHERE k = 1
            t1 commits
            t2 on y: UPDATE item SET v = 11 WHERE k = 1
            t2 on w: UPDATE item SET v = 11 WHERE k = 1
            t2 commits
            e = t3 from x: SELECT v FROM item WHERE k = 1
            f = t3 from z: SELECT v FROM item WHERE k = 1
            g = t4 from y: SELECT v FROM item WHERE k = 1
            h = t4 from w: SELECT v FROM item WHERE k = 1
            t3 commits
            t4 commits
        """,
        occurred=lambda seen: (
            (seen.a, seen.b, seen.e, seen.f) == (10, 10, 11, 11)
            and (seen.c, seen.d, seen.g, seen.h) == (10, 10, 11, 11)
        ),
    ),
)
SCRIPTS: Mapping[str, Script] = {script.name: script for script in _SCRIPTS}
