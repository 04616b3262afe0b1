"""Branches that are attached to the session that prepared them, where a dialect has such: whom to end, and whom to believe."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nodoubt.errors import NodeUnavailable
from nodoubt.nodes.contract import Listing
from nodoubt.nodes.dialect import Session
from nodoubt.nodes.failures import StatementFailed
from nodoubt.protocol.ids import BranchId

if TYPE_CHECKING:
    from nodoubt.nodes.sql import SqlNode

logger = logging.getLogger("nodoubt")

#: How long the server has to list a branch again.
REVEAL_S_MAX = 30.0


async def listed(node: SqlNode, session: Session) -> Listing:
    """What is prepared. A decision that is prepared had been committed, in one phase, when its server died: it is again.

    Nobody was told of it, or acted on it, since it was not forced; but the binary log has it, and some may have seen it.
    """
    listing = await node.dialect.prepared(session, node.domain)
    if node.capabilities.detached:
        return listing
    decided = [found.id for found in listing.ours if found.id.home == node.name]
    for branch in decided:
        logger.warning("node %r died with the decision of %s, which is committed again", node.name, branch.gid)
        try:
            await session.command(node.dialect.finish(branch, commit=True))
        except StatementFailed as failure:
            if not node.dialect.is_missing(failure):
                raise
    return replace(listing, ours=tuple(found for found in listing.ours if found.id not in decided))


async def let_go(node: SqlNode, session: Session, branch: BranchId) -> bool:
    """End the session that a branch is attached to; whether it is over.

    One that finished the branch itself goes on, and is about something else by now.
    """
    dialect = node.dialect
    if await dialect.is_over(session, branch) or not await is_listed(node, session, branch):
        return True
    return await dialect.end_owner(session, branch, "") and await dialect.is_over(session, branch)


async def is_listed(node: SqlNode, session: Session, branch: BranchId) -> bool:
    """Whether a branch is prepared, as far as the server says so."""
    listing = await node.dialect.prepared(session, node.domain)
    return any(found.id.text() == branch.text() for found in listing.ours)


async def is_held(node: SqlNode, session: Session, gid: str, *branches: int) -> bool:
    """Whether the server says of one of these that it is finished, or does not list it, and holds it all the same."""
    if text := node.dialect.hidden(gid, branches):
        try:
            await session.command(text)
        except StatementFailed as failure:
            if not node.dialect.is_locked(failure):
                raise
            return True
    return False


async def reveal(node: SqlNode, branch: BranchId) -> None:
    """Have such a branch listed again, as that of a session that ends at once. Raises NodeUnavailable."""
    logger.warning("node %r lost sight of %s, which is prepared still", node.name, branch.text())
    session = await node.connect()
    try:
        await node.within(REVEAL_S_MAX, session, node.dialect.reveal(branch))
    finally:
        session.abandon()


async def applied(node: SqlNode, session: Session, branches: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
    """Which of these left their evidence. Raises NodeUnavailable for one that did not, and is held and not listed."""
    found = await node.dialect.applied(session, branches)
    missing = set(branches) - found if not node.capabilities.detached else set()
    if missing:
        listing = await node.dialect.prepared(session, node.domain)
        missing -= {(prepared.id.gid, prepared.id.branch) for prepared in listing.ours}
        for gid in sorted({gid for gid, _ in missing}):
            if await is_held(node, session, gid, *sorted(branch for of, branch in missing if of == gid)):
                raise NodeUnavailable(
                    f"node {node.name!r} holds a branch of {gid} and does not list it",
                    retryable=False,
                    hint="restart the database server: it lists the branch again then, and it can be settled",
                )
    return found
