"""What must be true in every state, and in every step between two (recovery rules, and the invariants at their end)."""

from __future__ import annotations

from collections.abc import Iterator

from nodoubt.prove.databases import PROMISED, Home, Part, Truth

APPLIED = (Part.COMMITTED, Part.CLEARED)


def broken(truth: Truth, told: str) -> Iterator[str]:
    """What is wrong with a state."""
    committed = truth.decided == "committed"
    if any(part in APPLIED for part in truth.parts) and not committed:
        yield "a branch is committed, and the decision is not (rule 2)"
    if committed and any(part not in (*PROMISED, *APPLIED) for part in truth.parts):
        yield "the decision is committed, and a branch is not prepared any more, or never was (atomicity)"
    if truth.row in ("committed", "complete") and not committed:
        yield "a transaction that was aborted is committed afterwards (tombstone)"
    if truth.row == "complete" and any(part not in APPLIED for part in truth.parts):
        yield "a decision is complete, and a branch is not committed (rule 7)"
    if truth.row == "committed" and Part.CLEARED in truth.parts:
        yield "evidence was dropped behind a decision that is not complete"
    match told:
        case "committed" if not committed:
            yield "the caller was told committed, and it is not"
        case "aborted" if committed:
            yield "the caller was told aborted, and it is committed"
        case "" | "committed" | "aborted" | "unknown":
            pass
        case _:
            yield f"the caller was told {told}, and nobody from outside was at work (rule 15)"


def broken_by(before: Truth, after: Truth) -> Iterator[str]:
    """What is wrong with a step."""
    for was, now in zip(before.parts, after.parts, strict=True):
        if was in PROMISED and now is Part.GONE and before.decided != "aborted":
            yield "a prepared branch is rolled back without a tombstone (rule 2)"
    if before.row and not after.row:
        if before.row == "committed":
            yield "a decision that is not complete was purged (rule 7)"
        if before.row == "aborted" and before.home is not Home.OVER:
            yield "a tombstone was purged while a session could still insert its key (rule 7)"


def is_settled(truth: Truth) -> bool:
    """Whether nothing is left to do: no branch is open or prepared, no decision open, no packet of a branch on its way."""
    ended = (*APPLIED, Part.GONE)
    return truth.home is Home.OVER and truth.row != "committed" and all(part in ended for part in truth.parts)
