"""What recovery may conclude: one table of labelled cases.

What home says x what the node says x whose branch it is x its age. Exactly one case matches each combination (a test goes
through the whole product). ``recovery-rules`` are the rules of the design; each case names those that it rests on. Age never
decides what is true, it only says when to try.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class HomeSays(StrEnum):
    """What a probe of home answered."""

    COMMITTED = "committed"
    COMPLETE = "committed and complete"
    ABORTED = "aborted"
    FRESH = "nothing, so a tombstone was inserted"
    BUSY = "a committer holds the key"
    SILENT = "unreachable"
    BROKEN = "the row cannot be read"
    STRANGER = "no node of that name is configured"


class NodeSays(StrEnum):
    """What the branch's node said, after its list of prepared branches was read."""

    PREPARED = "prepared"
    APPLIED = "absent, and its work is there"
    ABSENT = "absent, and its work is not there"
    SILENT = "unreachable"


class Whose(StrEnum):
    """Whom a branch belongs to."""

    LIVE = "a live transaction of this process"
    OURS = "our domain"
    FOREIGN = "another domain or another product"


class Age(StrEnum):
    """Whether the grace period has passed."""

    YOUNG = "younger than the grace period"
    RIPE = "older than the grace period"


class Action(StrEnum):
    """What is to be done with one branch."""

    COMMIT = "commit it"
    ROLL_BACK = "roll it back"
    DONE = "nothing: it ended as decided"
    WAIT = "try again later"
    LEAVE = "leave it alone"
    REPORT = "a person must look"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One labelled case. An empty set of values matches all of them."""

    label: str
    action: Action
    why: str
    home: frozenset[HomeSays] = frozenset()
    node: frozenset[NodeSays] = frozenset()
    whose: frozenset[Whose] = frozenset({Whose.OURS})
    age: frozenset[Age] = frozenset({Age.RIPE})

    def matches(self, home: HomeSays, node: NodeSays, whose: Whose, age: Age) -> bool:
        """Whether this case covers the combination."""
        return (
            (not self.home or home in self.home)
            and (not self.node or node in self.node)
            and (not self.whose or whose in self.whose)
            and (not self.age or age in self.age)
        )


#: The cases in which somebody outside nodoubt finished a branch against the decision (recovery rule 15).
HEURISTIC = ("rolled-back-by-hand", "committed-by-hand")

_HOME_COMMITTED = frozenset({HomeSays.COMMITTED, HomeSays.COMPLETE})
_ANSWERED = frozenset(NodeSays) - {NodeSays.SILENT}

VERDICTS: tuple[Verdict, ...] = (
    Verdict(
        label="foreign",
        action=Action.LEAVE,
        why="counted and left alone (rule 11)",
        whose=frozenset({Whose.FOREIGN}),
        age=frozenset(),
    ),
    Verdict(
        label="live",
        action=Action.LEAVE,
        why="its owner in this process is at work",
        whose=frozenset({Whose.LIVE}),
        age=frozenset(),
    ),
    Verdict(
        label="young",
        action=Action.WAIT,
        why="its owner, wherever it is, is probably at work",
        age=frozenset({Age.YOUNG}),
    ),
    Verdict(
        label="node-silent",
        action=Action.WAIT,
        why="a failed listing counts for nothing (rule 4)",
        node=frozenset({NodeSays.SILENT}),
    ),
    Verdict(
        label="home-unknown",
        action=Action.REPORT,
        why="home's name is not configured here: kept, shown, never guessed (rule 11)",
        home=frozenset({HomeSays.STRANGER}),
        node=_ANSWERED,
    ),
    Verdict(
        label="home-silent",
        action=Action.WAIT,
        why="in doubt until home can be asked (rule 2)",
        home=frozenset({HomeSays.SILENT}),
        node=_ANSWERED,
    ),
    Verdict(
        label="home-busy",
        action=Action.WAIT,
        why="the committer is still in flight and may win (rule 2)",
        home=frozenset({HomeSays.BUSY}),
        node=_ANSWERED,
    ),
    Verdict(
        label="home-broken",
        action=Action.REPORT,
        why="an unreadable decision is quarantined (rule 16)",
        home=frozenset({HomeSays.BROKEN}),
        node=_ANSWERED,
    ),
    Verdict(
        label="commit",
        action=Action.COMMIT,
        why="a committed decision is durable at home (rule 2)",
        home=_HOME_COMMITTED,
        node=frozenset({NodeSays.PREPARED}),
    ),
    Verdict(
        label="committed",
        action=Action.DONE,
        why="decided, list read afterwards, branch absent, evidence found (rule 3)",
        home=_HOME_COMMITTED,
        node=frozenset({NodeSays.APPLIED}),
    ),
    Verdict(
        label="complete",
        action=Action.DONE,
        why="every branch was known to be finished, and evidence is dropped after that (rule 7)",
        home=frozenset({HomeSays.COMPLETE}),
        node=frozenset({NodeSays.ABSENT}),
    ),
    Verdict(
        label="rolled-back-by-hand",
        action=Action.REPORT,
        why="decided committed, but the branch is gone without its work: somebody else rolled it back (rule 15)",
        home=frozenset({HomeSays.COMMITTED}),
        node=frozenset({NodeSays.ABSENT}),
    ),
    Verdict(
        label="roll-back",
        action=Action.ROLL_BACK,
        why="a tombstone is durable at home (rule 2)",
        home=frozenset({HomeSays.ABORTED, HomeSays.FRESH}),
        node=frozenset({NodeSays.PREPARED}),
    ),
    Verdict(
        label="rolled-back",
        action=Action.DONE,
        why="decided aborted and absent; a late PREPARE will find the tombstone (rule 3)",
        home=frozenset({HomeSays.ABORTED}),
        node=frozenset({NodeSays.ABSENT}),
    ),
    Verdict(
        label="expired",
        action=Action.DONE,
        why="a fresh tombstone proves nothing about the past of a branch that is gone (rule 6)",
        home=frozenset({HomeSays.FRESH}),
        node=frozenset({NodeSays.ABSENT, NodeSays.APPLIED}),
    ),
    Verdict(
        label="committed-by-hand",
        action=Action.REPORT,
        why="decided aborted, but the work is there: somebody else committed it (rule 15)",
        home=frozenset({HomeSays.ABORTED}),
        node=frozenset({NodeSays.APPLIED}),
    ),
)


def verdict(home: HomeSays, node: NodeSays, whose: Whose, age: Age) -> Verdict:
    """The one case that covers a combination."""
    (case,) = (case for case in VERDICTS if case.matches(home, node, whose, age))
    return case
