"""Every error that nodoubt raises to a caller.

Lives here: the error tree and the outcome that each error carries. Knows nothing of databases, drivers or the protocol.

::

    NodoubtError
    ├── ConfigError           the configuration or a database contradicts what was asked; nothing was begun
    ├── NodeUnavailable       a node cannot be reached, or its pool stayed full
    ├── GuardError            the block did something that the plan cannot carry; the transaction aborts everywhere
    ├── Aborted               nothing happened on any node
    ├── OutcomeUnknown        the decision could not be learnt yet; it will be, see ``hint``
    ├── HeuristicOutcome      somebody outside nodoubt finished a branch against the decision
    └── InvariantBroken       a bug in nodoubt: please report it
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["committed", "aborted", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is known of a transaction's end.

    ``state`` is ``"committed"``, ``"aborted"`` or ``"unknown"``. ``pending`` names the nodes whose branch has not been brought to
    that state yet; the settler works on them. ``reason`` says in a sentence why a transaction aborted or is unknown.
    ``strays`` names the nodes whose branch somebody outside nodoubt finished the other way.
    """

    state: State
    pending: tuple[str, ...] = ()
    reason: str = ""
    strays: tuple[str, ...] = field(default=())


class NodoubtError(Exception):
    """The root of the tree.

    ``gid`` is the transaction's id (None outside one), ``outcome`` what is known of its end, ``retryable`` whether running the
    whole closure again can help, ``hint`` what to do. The driver's own error, if there was one, is the ``__cause__``.
    """

    retryable_by_default = False

    def __init__(
        self,
        message: str,
        *,
        gid: str | None = None,
        outcome: Outcome | None = None,
        retryable: bool | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.gid = gid
        self.outcome = outcome
        self.retryable = self.retryable_by_default if retryable is None else retryable
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.message} [gid {self.gid}]" if self.gid else self.message
        return f"{text}\n  hint: {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.__dict__)


def _rebuild(kind: type[NodoubtError], message: str, state: dict[str, Any]) -> NodoubtError:
    """Make an unpickled error: keyword arguments do not survive ``Exception.__reduce__``."""
    error = kind(message)
    error.__dict__.update(state)
    return error


class ConfigError(NodoubtError):
    """The configuration, or what a database says of itself, contradicts what was asked. Nothing was begun."""


class NodeUnavailable(NodoubtError):
    """A node cannot be reached, or all connections of its pool stayed in use for longer than ``acquire_timeout_s``."""

    retryable_by_default = True


class GuardError(NodoubtError):
    """The block, or the program around it, did what the plan cannot carry; the message names the statement or the rule."""


class Aborted(NodoubtError):
    """Nothing happened on any node. ``retryable`` tells whether a new try of the whole closure can help."""


class OutcomeUnknown(NodoubtError):
    """The decision was sent and its answer lost, and home cannot be asked at the moment. Never retry: ask ``outcome(gid)``."""


class HeuristicOutcome(NodoubtError):
    """Somebody outside nodoubt finished a branch against the decision; ``outcome.strays`` names the nodes."""


class InvariantBroken(NodoubtError):
    """A bug in nodoubt. The transaction is left as it is for the settler rather than guessed at."""


def require(condition: object, message: str) -> None:
    """Check an invariant in production too: ``assert`` would vanish under ``python -O``."""
    if not condition:
        raise InvariantBroken(message)
