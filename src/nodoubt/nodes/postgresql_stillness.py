"""How a snapshot on PostgreSQL knows that nobody was at work when it was taken, and whether anything happened since.

A glance, in the snapshot's transaction, reads where the log ends, and then finds that all is *quiet* if (PostgreSQL manual,
9.27.7 and 9.27.8)

- nothing was in progress in the snapshot, no prepared transaction either: its ``xmin`` is its ``xmax``; and
- no transaction id was given out since: the next one is ``xmax`` still. ``age`` counts to the next one when a transaction
  asks for the first time, and to the same one ever after.

So whoever prepares or commits later gets his id, and writes that to the log, behind that end; and it can be seen only when it
is written. As long as the log ends there, what is committed is what the snapshot shows. Whatever else moves the end (a
checkpoint, another database of the server) can only make the answer a no.

The end is noted in a setting of the session, if all was quiet: the next glance there finds out whether it moved since. Who
rolls back has the note of an earlier glance again, which is as true.
"""

from nodoubt.nodes.contract import Glance
from nodoubt.nodes.dialect import Stillness

#: Makes the statements ``nodoubt_glance`` and ``nodoubt_still``, which answer by how many rows they find, so in a tag.
#: Each level of the first is evaluated before the one around it: a query with a volatile function in it is not pulled up.
PREPARE_STILLNESS = (
    "PREPARE nodoubt_glance AS"
    " SELECT generate_series(1, CASE WHEN set_config('nodoubt.log_end', CASE WHEN quiet THEN log_end ELSE '' END, false) = ''"
    " THEN 0 WHEN log_end = noted THEN 2 ELSE 1 END)"
    " FROM (SELECT noted, log_end, CASE WHEN log_end <> '' AND pg_snapshot_xmin(shown) = pg_snapshot_xmax(shown)"
    " THEN age(pg_snapshot_xmax(shown)::xid) = 0 ELSE false END AS quiet"
    " FROM (SELECT current_setting('nodoubt.log_end', true) AS noted, pg_current_wal_insert_lsn()::text AS log_end,"
    " pg_current_snapshot() AS shown) AS looked) AS judged;"
    "PREPARE nodoubt_still AS"
    " SELECT WHERE pg_current_wal_insert_lsn()::text = current_setting('nodoubt.log_end')"
)
_GLANCES = {"SELECT 1": Glance.QUIET, "SELECT 2": Glance.UNMOVED}


def stillness(look: str) -> Stillness:
    """The texts of a branch whose snapshot a text takes."""
    return Stillness(
        glance=f"{look};EXECUTE nodoubt_glance",
        glances=_GLANCES,
        still="EXECUTE nodoubt_still",
        yes="SELECT 1",
        look_again=f"ROLLBACK AND CHAIN;{look}",
    )
