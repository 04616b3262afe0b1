"""Draws the protocol's tables for the docs: ``python -m tests.protocol.diagram`` writes ``docs/protocol.md``.

The tables say where a fact leads. What the machine does by itself after it (go on to the next phase, give an order to a
branch) is found by walking: every fact that a table allows and an order's docstring promises, in every order, for small
transactions.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nodoubt.protocol import messages as m
from nodoubt.protocol.states import BRANCHES, ENDED, PHASES, BranchState, Phase
from nodoubt.protocol.transaction import Transaction

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"

_DECISIONS = (m.DecisionDurable, m.DecisionConflict, m.DecisionFailed, m.DecisionLost)
_TEXT = """\
# The protocol, drawn

Made from `src/nodoubt/protocol/states.py` by `make docs`; a test fails when it is stale. The words on the arrows are the facts
and orders of `src/nodoubt/protocol/messages.py`: facts in the past tense, orders in the imperative.

## The phases of a transaction

Recovered work begins in *probing*. A request to abort is legal everywhere and, once the decision was sent, changes nothing.

```mermaid
{phases}
```

## The states of a branch

```mermaid
{branches}
```
"""

Edges = dict[tuple[str, str], set[str]]


def page() -> str:
    """The whole of ``docs/protocol.md``."""
    phases, branches = tables()
    for transaction, orders in begun():
        walk(transaction, orders, phases, branches, set())
    return _TEXT.format(
        phases=mermaid(phases, [phase.value for phase in Phase], {phase.value for phase in ENDED}),
        branches=mermaid(branches, [state.value for state in BranchState], set()),
    )


def tables() -> tuple[Edges, Edges]:
    """What the tables say, without requests to abort that change nothing."""
    phases, branches = Edges(), Edges()
    for (phase, fact), to in PHASES.items():
        if fact is not m.AbortRequested or phase is not to:
            phases.setdefault((phase.value, to.value), set()).add(fact.__name__)
    for (state, fact), after in BRANCHES.items():
        branches.setdefault((state.value, after.value), set()).add(fact.__name__)
    return phases, branches


def begun() -> Iterator[tuple[Transaction, tuple[m.Order, ...]]]:
    """Small transactions at their beginning, new and recovered."""
    for others in range(3):
        for reader in (False, True):
            transaction = Transaction("gid")
            transaction.take(m.Enlisted(branch=0, node="home", home=True))
            for number in range(1, others + 1):
                transaction.take(m.Enlisted(branch=number, node=str(number), read_only=reader and number == others))
            yield transaction, ()
    reading = Transaction("gid")
    reading.take(m.Enlisted(branch=0, node="only", read_only=True))
    yield reading, ()
    recovered, orders = Transaction.recovered("gid", {1: "one"})
    yield recovered, tuple(orders)


def walk(
    transaction: Transaction, waiting: tuple[m.Order, ...], phases: Edges, branches: Edges, seen: set[object]
) -> None:
    """Go through every story from here, noting what the machine does by itself."""
    key = (transaction.phase, tuple(transaction.branches), transaction.fenced, transaction.probed, waiting)
    if key in seen:
        return
    seen.add(key)
    facts: list[tuple[m.Fact, m.Order | None]] = [(fact, order) for order in waiting for fact in answers(order)]
    facts.append((m.AbortRequested(reason="asked"), None))
    if transaction.phase is Phase.ACTIVE:
        facts.append((m.CommitRequested(), None))
    for fact, answered in facts:
        if (transaction.phase, type(fact)) not in PHASES:
            continue  # an abort that probes finds no commit: it never sent a decision
        after = copy.copy(transaction)
        after.branches = list(transaction.branches)
        orders = after.take(fact)
        reached = PHASES[transaction.phase, type(fact)]
        if after.phase is not reached:
            phases.setdefault((reached.value, after.phase.value), set()).add("all have answered")
        note_branches(transaction, after, fact, orders, branches)
        kept = tuple(order for order in (*waiting, *orders) if order is not answered and is_answered(order))
        walk(after, kept, phases, branches, seen)


def note_branches(
    before: Transaction, after: Transaction, fact: m.Fact, orders: list[m.Order], branches: Edges
) -> None:
    """Note the orders that moved branches, and the branches that a fact about home moved."""
    ordered: Mapping[int, str] = {
        order.branch: type(order).__name__
        for order in orders
        if isinstance(order, m.Prepare | m.Release | m.Decide | m.CommitBranch | m.RollbackBranch)
    }
    named = before.home if isinstance(fact, _DECISIONS) else getattr(fact, "branch", None)
    for number, (was, now) in enumerate(zip(before.branches, after.branches, strict=True)):
        between = BRANCHES.get((was, type(fact)), was) if number == named else was
        if between is not now:
            why = ordered.get(number, type(fact).__name__)
            branches.setdefault((between.value, now.value), set()).add(why)


def is_answered(order: m.Order) -> bool:
    """Whether an order has answers; its docstring says so."""
    return bool(answers(order))


def answers(order: m.Order) -> list[m.Fact]:
    """The facts that an order's docstring promises, of the kinds that are possible at all."""
    _, _, promised = (type(order).__doc__ or "").partition("Answers: ")
    if isinstance(order, m.RollbackBranch):
        promised = "BranchRolledBack, BranchStrayed, BranchOwed" if order.prepared else "BranchRolledBack"
    names = re.findall(r"-?\b[A-Z]\w+", promised)
    # Decide's answers are written DecisionDurable, -Conflict, -Failed, -Lost.
    first = "".join(re.findall(r"^[A-Z][a-z]+", names[0])) if names else ""
    return [make(getattr(m, name.replace("-", first)), order) for name in names]


def make(kind: Any, order: m.Order) -> m.Fact:
    """A fact about the branch that an order names."""
    given = {"branch": getattr(order, "branch", 0), "reason": "no"}
    fact: m.Fact = kind(**{name: given[name] for name in kind.__dataclass_fields__})
    return fact


def mermaid(edges: Edges, order: list[str], ended: set[str]) -> str:
    """One state diagram; arrows in the order of the states, labels sorted."""
    lines = ["stateDiagram-v2", *(f'    state "{name}" as {alias(name)}' for name in order if " " in name)]
    lines.append(f"    [*] --> {alias(order[0])}")
    labels: dict[tuple[str, str], set[str]] = defaultdict(set, edges)
    for start, end in sorted(labels, key=lambda edge: (order.index(edge[0]), order.index(edge[1]))):
        lines.append(f"    {alias(start)} --> {alias(end)}: {', '.join(sorted(labels[start, end]))}")
    lines += [f"    {alias(name)} --> [*]" for name in order if name in ended]
    return "\n".join(lines)


def alias(name: str) -> str:
    """A state's name as Mermaid takes it."""
    return name.replace(" ", "_")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
