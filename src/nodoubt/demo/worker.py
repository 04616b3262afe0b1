"""A worker process: transfers money until its standard input ends, or until it is killed.

Run as a program. It speaks JSON lines. In, first its orders (see :func:`orders`: nodes with their passwords must not stand in
a command line), then ``{"die": point}``. Out: ``ready``, ``began``, ``done``, ``aborted``, ``unknown``, ``settled`` as they
happen, ``dying`` as its last word before it kills itself, ``failed`` for what it cannot go on with.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, Literal, NoReturn

from nodoubt.demo.bank import draw_transfer, leg_texts, move
from nodoubt.demo.killer import BETWEEN
from nodoubt.demo.plain import PlainSession, connections
from nodoubt.engine.asynchronous import AsyncTransactionManager
from nodoubt.engine.config import load
from nodoubt.errors import NodoubtError, OutcomeUnknown

#: Branches of killed workers are settled when they are older than this. Far shorter than an application would choose.
GRACE_S = 0.5
SETTLE_EVERY_S = 0.5
TRANSACTION_TIMEOUT_S = 10.0
#: Pause before a transfer is tried again, growing with each failure in a row up to the second value.
PAUSE_S_FIRST = 0.01
PAUSE_S_MAX = 0.5


def orders(nodes: Mapping[str, str], domain: str, seed: int, *, unprotected: bool) -> str:
    """The first line that a worker reads."""
    return json.dumps({"nodes": dict(nodes), "domain": domain, "seed": seed, "unprotected": unprotected})


def say(**words: Any) -> None:
    """Tell the supervisor. One short write to a pipe is atomic, and what was written survives our death."""
    line = json.dumps(words).encode() + b"\n"
    while line:
        line = line[os.write(1, line) :]


def settler_watch(is_live: Callable[[str], bool], settled: Callable[[str, int], None]) -> Callable[..., None]:
    """A watch that reports branches of other processes' transactions as they are finished."""

    def watch(kind: Literal["order", "fact"], gid: str, message: Any) -> None:
        if kind == "fact" and type(message).__name__ in ("BranchCommitted", "BranchRolledBack") and not is_live(gid):
            settled(gid, message.branch)

    return watch


class Worker:
    """What both ways of committing share."""

    def __init__(self, domain: str, seed: int) -> None:
        self.domain = domain
        self.dice = random.Random(seed)
        #: Where to die.
        self.point: str | None = None
        self.stopping = asyncio.Event()

    def reached(self, point: str, gid: str) -> None:
        """Die here if this is the place."""
        if point == self.point:
            _die(point, gid)

    def manager(self, nodes: Any, **settings: Any) -> AsyncTransactionManager:
        """One that dies where it was told to, and says which branches of others it finishes."""

        def is_live(gid: str) -> bool:
            return gid in manager.engine.live

        report = settler_watch(is_live, lambda gid, branch: say(settled=[gid, branch]))

        def watch(kind: Literal["order", "fact"], gid: str, message: Any) -> None:
            if is_live(gid):
                self.reached(f"{kind} {type(message).__name__}", gid)
            report(kind, gid, message)

        manager = AsyncTransactionManager.open(nodes, domain=self.domain, watch=watch, **settings)
        return manager

    async def protected(self, nodes: Mapping[str, str]) -> None:
        """Transfer in transactions of nodoubt."""
        manager = self.manager(nodes, grace_s=GRACE_S, settle_every_s=SETTLE_EVERY_S)
        async with manager as tm:
            await self._work(lambda: self._transfer(tm))

    async def _transfer(self, tm: AsyncTransactionManager) -> None:
        legs = draw_transfer(list(tm.nodes), self.dice)
        home = self.dice.choice(legs).node
        async with tm.transaction(home=home, timeout=TRANSACTION_TIMEOUT_S) as tx:
            say(began=tx.gid)
            for leg in legs:
                connection = await tx.on(leg.node)
                await move(tm.nodes[leg.node].kind, connection, tx.gid, leg)
        say(done=tx.gid)

    async def unprotected(self, nodes: Mapping[str, str]) -> None:
        """Transfer with a plain commit on one node after the other, the giver's first."""
        async with AsyncExitStack() as stack:
            sessions = await stack.enter_async_context(connections(load(nodes, domain=self.domain).nodes))

            async def transfer() -> None:
                try:
                    await self._transfer_plainly(sessions)
                except NodoubtError:
                    for session in sessions.values():
                        await session.roll_back()
                    raise

            await self._work(transfer)

    async def _transfer_plainly(self, sessions: Mapping[str, PlainSession]) -> None:
        legs = draw_transfer(list(sessions), self.dice)
        gid = secrets.token_hex(13)
        say(began=gid)
        for leg in legs:
            session = sessions[leg.node]
            await session.command(session.begin)
            for text in leg_texts(gid, leg):
                await session.command(text)
        for committed, leg in enumerate(sorted(legs, key=lambda leg: leg.delta)):
            if committed:
                self.reached(BETWEEN, gid)
            await sessions[leg.node].command("COMMIT")
        say(done=gid)
        await asyncio.sleep(0)  # a transfer over SQLite alone never waits: let the supervisor's orders in

    async def _work(self, transfer: Callable[[], Awaitable[None]]) -> None:
        say(ready=True)
        failures = 0
        while not self.stopping.is_set():
            try:
                await transfer()
                failures = 0
            except OutcomeUnknown as error:
                say(unknown=error.gid)
            except NodoubtError as error:
                say(aborted=error.message)
                if not error.retryable:
                    raise
                failures += 1
                bound_s = min(PAUSE_S_MAX, PAUSE_S_FIRST * 2**failures)
                await asyncio.sleep(bound_s * self.dice.random())

    async def listen(self, lines: asyncio.StreamReader) -> None:
        """Follow the supervisor; its end is the end of our work, too."""
        while line := await lines.readline():
            self.point = json.loads(line)["die"]
        self.stopping.set()


def _die(point: str, gid: str) -> NoReturn:
    say(dying=point, gid=gid)
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit("a process outlived kill -9")


async def serve(work: Callable[[Mapping[str, Any]], tuple[Worker, Coroutine[Any, Any, None]]]) -> int:
    """Read the orders, and work as they say. Returns the exit status."""
    # What a worker meets is in its reports; its log would only disturb the view.
    logging.getLogger("nodoubt").addHandler(logging.NullHandler())
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    worker, working = work(json.loads(await lines.readline()))
    listening = asyncio.create_task(worker.listen(lines))
    try:
        await working
    except NodoubtError as error:
        say(failed=str(error))
        return 1
    except Exception as error:
        say(failed=f"a bug: {type(error).__name__}: {error}")
        raise
    finally:
        listening.cancel()
    return 0


def transfers(told: Mapping[str, Any]) -> tuple[Worker, Coroutine[Any, Any, None]]:
    """A worker of the bank."""
    worker = Worker(told["domain"], told["seed"])
    return worker, (worker.unprotected if told["unprotected"] else worker.protected)(told["nodes"])


if __name__ == "__main__":
    sys.exit(asyncio.run(serve(transfers)))
