"""What both public shells share: everything of a transaction and a manager that does not wait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from nodoubt.engine.config import Config, Source, load
from nodoubt.engine.engine import Engine
from nodoubt.engine.work import Work
from nodoubt.engine.worlds import AsyncWorld, ThreadWorld
from nodoubt.errors import GuardError, NodoubtError, Outcome
from nodoubt.nodes.contract import Node
from nodoubt.nodes.registry import make_node


class TransactionShell:
    """One transaction, as its block sees it."""

    _is_entered = False

    def __init__(self, work: Work) -> None:
        self._work = work

    def _require_entered(self) -> None:
        """Raise GuardError for a transaction whose end nobody would reach."""
        if not self._is_entered:
            raise GuardError(
                "the transaction was not entered",
                gid=self.gid,
                hint="write `with tm.transaction() as tx:` (or `async with`)",
            )

    @property
    def gid(self) -> str:
        """The transaction's globally unique id."""
        return self._work.gid

    @property
    def outcome(self) -> Outcome:
        """What is known of its end."""
        return self._work.outcome

    def _tell(self, error: BaseException) -> None:
        """Let the error that ended the block say what became of it; one of another transaction tells of that one."""
        if isinstance(error, NodoubtError) and error.gid in (None, self.gid):
            error.outcome = self.outcome

    def may_retry(self, error: BaseException) -> bool:
        """Whether the error that ended the block is one after which the whole closure may be run again."""
        return self._work.may_retry(error)


class ManagerShell:
    """The configuration of a manager, and its engine while it is open."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._engine: Engine | None = None

    @classmethod
    def open(cls, source: Source | None = None, *, domain: str | None = None, **settings: Any) -> Self:
        """Configure a manager; ``with`` (or ``async with``) opens its nodes.

        ``source`` is the path of a TOML file or a mapping ``{node: URL}``; ``settings`` are those of
        :class:`nodoubt.Settings`. Raises ConfigError; entering raises ConfigError or NodeUnavailable.
        """
        return cls(load(source, domain=domain, **settings))

    def _make_engine(self, world: AsyncWorld | ThreadWorld) -> Engine:
        nodes = [
            make_node(name, self._config.domain, settings, world, asynchronous=isinstance(world, AsyncWorld))
            for name, settings in self._config.nodes.items()
        ]
        return Engine(nodes, world, domain=self._config.domain, settings=self._config.settings)

    @property
    def engine(self) -> Engine:
        """The engine behind the manager, for tools."""
        if self._engine is None:
            raise RuntimeError(f"open the manager first: with {type(self).__name__}.open(…) as tm")
        return self._engine

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The configured nodes by name."""
        return self.engine.nodes
