"""A process that runs one transaction and is killed, stopped or paused in the middle of it, exactly where it was told to.

Started by ``harness``, to which it says what happens through a pipe. A point is the ``n``-th time that the performer is about to
carry out an order (``order Prepare 1``), that a fact is about to enter the machine (``fact Prepared 1``), or that an order's
packet has left and its answer was not read (``sent Prepare 1``).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from nodoubt import AsyncTransactionManager, NodoubtError, Outcome
from nodoubt.engine.asynchronous import AsyncTransaction
from nodoubt.nodes.aiomysql_driver import AiomysqlSession
from nodoubt.nodes.asyncpg_driver import AsyncpgSession

DOMAIN = "crash"


class Fuse:
    """Counts the moments of a run and strikes at the one that was asked for."""

    def __init__(self, point: str, action: str, pipe: Connection) -> None:
        self.point = point
        self.action = action
        self.pipe = pipe
        #: The order whose packet is to leave without its answer being read.
        self.armed = ""
        self.seen: collections.Counter[str] = collections.Counter()

    def watch(self, moment: str, gid: str, message: object) -> None:
        self.moment(f"{moment} {type(message).__name__}")

    async def reach(self, name: str) -> None:
        self.moment(name)

    def moment(self, name: str) -> None:
        self.seen[name] += 1
        if f"{name} {self.seen[name]}" == self.point:
            self.strike()
        # An order that is about to be carried out may be the one whose answer must not be read.
        if name.startswith("order ") and f"sent {name.removeprefix('order ')} {self.seen[name]}" == self.point:
            self.armed = name.removeprefix("order ")

    def strike(self) -> None:
        """Do to ourselves what the test wants at this point."""
        self.pipe.send({"struck": True})
        match self.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "pause":
                self.pipe.recv()

    def listen(self, nodes: Mapping[str, Any]) -> None:
        """Each call of recovery has a moment before it and one after it."""
        for node in nodes.values():
            for name in ("prepared", "probe", "decisions", "finish", "complete", "drop_evidence", "purge"):
                setattr(node, name, self._around(name, getattr(node, name)))

    def _around(self, name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def step(*arguments: Any, **options: Any) -> Any:
            self.moment(f"before {name}")
            result = await call(*arguments, **options)
            self.moment(f"after {name}")
            return result

        return step

    def cut_replies(self, session: type[Any]) -> None:
        """Make the driver strike when the packet of an armed order has left."""
        session.command = self._sent(session.command, lambda sql: self.armed not in ("", "Probe"))
        # A probe asks for rows, perhaps on a session that has to be set up first.
        session.query = self._sent(session.query, lambda sql: self.armed == "Probe" and "decision" in sql)

    def _sent(self, call: Callable[..., Awaitable[Any]], is_it: Callable[[str], bool]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(call)
        async def send_only(this: Any, sql: str) -> Any:
            if not is_it(sql):
                return await call(this, sql)
            self.armed = ""
            sending = asyncio.ensure_future(call(this, sql))
            await asyncio.wait({sending}, timeout=0)
            self.strike()
            return await sending

        return send_only


async def attempt(
    tm: AsyncTransactionManager,
    names: Sequence[str],
    end: str,
    identifier: int,
    *,
    begun: Callable[[AsyncTransaction], object],
    reach: Callable[[str], Awaitable[None]],
    timeout_s: float = 30,
) -> Outcome:
    """Run one transaction that is to end in this way; returns what its caller is told."""
    insert = f"INSERT INTO work VALUES ({identifier})"
    try:
        async with tm.transaction(home=names[0], timeout=timeout_s) as tx:
            begun(tx)
            await reach("begun")
            for name in names:
                connection = await tx.on(name)
                await reach("opened")
                await run(connection, insert)
            await reach("worked")
            match end:
                case "raise":
                    raise LookupError("the block gives up")
                case "refuse":
                    # A statement fails in the last branch and the block does not care: the vote must be no.
                    with contextlib.suppress(Exception):
                        await run(connection, insert)
    except NodoubtError as error:
        return error.outcome or Outcome(state="aborted")
    except LookupError:
        pass
    return tx.outcome


async def run(connection: Any, sql: str) -> None:
    """Run a statement by whichever driver's own connection this is."""
    if not hasattr(connection, "execute"):
        async with connection.cursor() as cursor:
            await cursor.execute(sql)
        return
    result = connection.execute(sql)
    if asyncio.iscoroutine(result):
        await result


async def purge_all(tm: AsyncTransactionManager) -> None:
    """Delete all that is complete, however young."""
    tm.engine.settings = replace(tm.engine.settings, retention_s=0)
    await tm.engine.flush()
    await tm.engine.purge()


def play(pipe: Connection, **spec: Any) -> None:
    """Run what is specified: a transaction, or rounds of settling."""
    asyncio.run(_play(pipe, spec))


async def _play(pipe: Connection, spec: dict[str, Any]) -> None:
    fuse = Fuse(spec.get("point", ""), spec.get("action", ""), pipe)
    fuse.cut_replies(AsyncpgSession)
    fuse.cut_replies(AiomysqlSession)
    tm = AsyncTransactionManager.open(spec["nodes"], domain=DOMAIN, settle=False, watch=fuse.watch)
    async with tm:
        fuse.listen(tm.engine.nodes)
        if spec["end"] == "settle":
            for _ in range(spec["rounds"]):
                report = await tm.settle(grace_s=0)
                if not report.waiting and not report.unreachable:
                    break
            pipe.send({"settled": report.settled, "waiting": len(report.waiting)})
            return
        outcome = await attempt(
            tm,
            spec["nodes_in_order"],
            spec["end"],
            spec["id"],
            begun=lambda tx: pipe.send({"gid": tx.gid}),
            reach=fuse.reach,
        )
        pipe.send({"told": outcome.state, "strays": list(outcome.strays)})
        if spec.get("purge"):
            await purge_all(tm)
