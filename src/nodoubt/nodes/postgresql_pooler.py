"""Whether a connection has a session of the server to itself.

A pooler in transaction mode gives a session to whoever begins a transaction next. There what we set does not hold for us:
the limit that ends a zombie before its tombstone is forgotten, the settings of recovery; what we prepared is not there; and
the session that we end, so that "absent" counts, is a stranger's. A pooler in session mode does none of that.
"""

from __future__ import annotations

from nodoubt.errors import ConfigError
from nodoubt.nodes.dialect import Beside, Session
from nodoubt.nodes.failures import ConnectionLost

#: A setting of nobody's: PostgreSQL keeps any name with a dot (manual, 20.16 "Customized Options").
_MARK = "nodoubt.mark"
#: How often one looks. Where nobody else is at work the first look tells; where many are, nearly every one does.
_LOOKS = 5


async def check_own_session(session: Session, name: str, beside: Beside) -> None:
    """Raise ConfigError where what is set in a session is seen in another one, or is gone.

    Costs one packet where the server itself was reached: a pooler announces process ids of its own making.
    """
    if not session.announced or await _is_so(session, f"pg_backend_pid() = {session.announced}"):
        return
    try:
        async with beside() as other:
            for look in range(_LOOKS):
                mark = f"'{session.announced} {look}'"
                await session.command(f"SET {_MARK} = {mark}")
                is_marked = f"current_setting('{_MARK}', true) = {mark}"
                if await _is_so(other, is_marked) or not await _is_so(session, is_marked):
                    raise ConfigError(
                        f"node {name!r} is behind a pooler that gives sessions of the server to one connection after another",
                        hint="let the pooler have pool_mode = session for nodoubt, or name the server itself in the URL",
                    )
    except ConnectionLost as lost:
        raise ConnectionLost(f"the pooler before it has no second session for us: {lost}") from lost


async def _is_so(session: Session, condition: str) -> bool:
    """In a simple query: what a driver prepares would be in the way of the next who has the session."""
    return await session.command(f"SELECT WHERE {condition}") == "SELECT 1"
