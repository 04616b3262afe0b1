"""MariaDB and MySQL: prepared branches, and the sessions that they are attached to. Texts, and what is asked of the server.

- From elsewhere XA COMMIT says 1397 while XA RECOVER lists the branch, as long as the session lives. So every session holds the
  lock ``nodoubt:<token>`` all its life and its branches carry the token: ``IS_USED_LOCK`` tells exactly which connection to
  KILL, and when it is over. No innocent session can be hit.
- When a session ends, MariaDB lets the branch's name go first, then the lock, and last InnoDB's transaction. Whoever says XA
  COMMIT or XA ROLLBACK in between is answered that it was done, and it was not: the name is forgotten, the transaction stays
  prepared with all its locks, and neither XA RECOVER nor anybody's XA COMMIT finds it until the server is restarted.
- Its evidence is locked then, which tells (:func:`hidden`). And InnoDB finds a branch by its name alone: once the name is
  known again, by an XA transaction without changes of its own (:func:`reveal`), XA COMMIT reaches the one that was hidden.
"""

from __future__ import annotations

from nodoubt.nodes.dialect import Session
from nodoubt.nodes.failures import StatementFailed
from nodoubt.nodes.texts import literal
from nodoubt.protocol.ids import BranchId

NO_SUCH_THREAD = "1094"
#: Characters of a session's token at the beginning of :attr:`BranchId.session`.
TOKEN_LENGTH = 8
#: A killed session is waited for this often, this long each time: 2 s in all, then the branch is left for the next round.
KILL_POLLS_MAX = 100
KILL_POLL_S = 0.02
#: A session's thread takes no longer from freeing its lock to freeing its transaction, however busy the machine. If it does, the
#: branch is hidden, and revealed; only who looks just then, to open a view, may miss it.
LETS_GO_S = 0.1


def _lock(token: str) -> str:
    return literal(f"nodoubt:{token[:TOKEN_LENGTH]}")


def owning(token: str) -> str:
    """What a session says, once, that branches with its token are attached to it."""
    return f"GET_LOCK({_lock(token)}, 0)"


async def end_owner(session: Session, token: str) -> bool:
    """End the session that says so, and wait until it is over; whether it is."""
    if not token:
        return True
    killed = None
    for _ in range(KILL_POLLS_MAX):
        ((owner,),) = await session.query(f"SELECT IS_USED_LOCK({_lock(token)})")
        if owner is None:
            return True
        if owner != killed:
            try:
                await session.command(f"KILL {int(owner)}")
            except StatementFailed as failure:
                if failure.code != NO_SUCH_THREAD:
                    return False
            killed = owner
        await session.query(f"SELECT SLEEP({KILL_POLL_S})")
    return False


async def is_over(session: Session, token: str) -> bool:
    """Whether it has ended. If so, also InnoDB has let go: it does microseconds after the lock, which nobody can see."""
    ((owner,),) = await session.query(f"SELECT IS_USED_LOCK({_lock(token)})")
    if owner is None:
        await session.query(f"SELECT SLEEP({LETS_GO_S})")
    return owner is None


def hidden(schema: str, gid: str, branch: int) -> str:
    """Fails at once while a transaction that has not ended holds a branch's evidence.

    It names one: a range of keys would be locked to its end, where somebody else's may be.
    """
    return f"SELECT 1 FROM {schema}nodoubt_branch WHERE gid='{gid}' AND branch={branch} FOR UPDATE NOWAIT"


def reveal(schema: str, branch: BranchId, xid: str) -> str:
    """Say a branch's name again, as an owner, in a transaction that counts as a writing one and writes nothing.

    A duplicate that is ignored is such a write. A transaction without any would make the server answer XA COMMIT with a rollback.
    """
    return (
        f"DO {owning(branch.session)};XA START {xid};INSERT IGNORE INTO {schema}nodoubt_node SELECT * FROM {schema}nodoubt_node;"
        f"XA END {xid};XA PREPARE {xid}"
    )
