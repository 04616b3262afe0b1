"""The advisory locks of a serializable branch on PostgreSQL, which has no locks of its own for what is read.

Locks of the transaction: PREPARE TRANSACTION keeps them, through a crash as well, and COMMIT PREPARED lets go of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from nodoubt.nodes.contract import Key


def advisory_locks(domain: str, keys: Sequence[Key]) -> str:
    """Statements that lock keys in the order given or, without any, the whole domain.

    Who declares keys shares the domain. Without keys it must be had alone, to read as well: among those who share it are
    writers. Each lock is a statement, because a limit for waiting counts for each, and a list of columns has no order.
    """
    locks = [_lock(_number(domain), shared=bool(keys))]
    locks += [_lock(_number(domain, key.name), shared=key.shared) for key in keys]
    return ";".join(locks)


def _lock(number: int, *, shared: bool) -> str:
    return f"SELECT pg_advisory_xact_lock{'_shared' if shared else ''}({number})"


def _number(*names: str) -> int:
    """63 bits of a hash; names of domains have no separator in them."""
    return int.from_bytes(hashlib.sha256("\0".join(("nodoubt", *names)).encode()).digest()[:8]) >> 1
