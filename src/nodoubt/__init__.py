"""One transaction over several databases that happens everywhere or nowhere, whatever crashes."""

from nodoubt.engine.asynchronous import AsyncSnapshot, AsyncTransaction, AsyncTransactionManager
from nodoubt.engine.engine import Settings
from nodoubt.engine.request import shared
from nodoubt.engine.settle import Doubt, SettleReport
from nodoubt.engine.synchronous import Snapshot, Transaction, TransactionManager
from nodoubt.errors import (
    Aborted,
    ConfigError,
    GuardError,
    HeuristicOutcome,
    InvariantBroken,
    NodeUnavailable,
    NodoubtError,
    Outcome,
    OutcomeUnknown,
)

__version__ = "0.1.0"

__all__ = [
    "Aborted",
    "AsyncSnapshot",
    "AsyncTransaction",
    "AsyncTransactionManager",
    "ConfigError",
    "Doubt",
    "GuardError",
    "HeuristicOutcome",
    "InvariantBroken",
    "NodeUnavailable",
    "NodoubtError",
    "Outcome",
    "OutcomeUnknown",
    "Settings",
    "SettleReport",
    "Snapshot",
    "Transaction",
    "TransactionManager",
    "shared",
]
