"""A TCP proxy between a program and a PostgreSQL or MariaDB server that loses, stalls and delays what it is told to.

It runs on a thread of its own, so that programs of both worlds can use it. What goes wrong is a
:class:`~nodoubt.testing.proxy_faults.Schedule`: data, which a seed can draw and replay.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from asyncio import StreamReader, StreamWriter
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import urlsplit

from nodoubt.testing.proxy_faults import Arrives, Fault, Schedule, Statement, Then, recognise
from nodoubt.testing.proxy_wire import WIRES, Request

READ_BYTES_MAX: Final = 65_536
"""How much of a reply is passed on at once."""

PATIENCE_S: Final = 30.0
"""How long :meth:`Proxy.wait` waits for a fault that never comes."""


@dataclass(slots=True)
class _Line:
    """A client's connection and the one that was made to the server for it."""

    client: tuple[StreamReader, StreamWriter]
    server: tuple[StreamReader, StreamWriter]
    #: Replies are passed back while it is set, and dropped once the line is cut.
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    #: Not set while a fault waits for the reply to the request that it struck.
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    is_cut: bool = False


class Proxy:
    """One server seen through a bad network; serves from construction until :meth:`stop`, or the end of its ``with`` block.

    Args:
        url: where the server is; a host and a port of this machine or another.
        schedule: what goes wrong.
    """

    def __init__(self, url: str, schedule: Schedule = Schedule()) -> None:  # noqa: B008 (immutable)
        parts = urlsplit(url)
        self._wire = WIRES[parts.scheme]
        self._server = (parts.hostname, parts.port)
        self._faults = {(fault.statement, fault.number): fault for fault in schedule.faults}
        self._seen: Counter[Statement] = Counter()
        self._struck: list[Fault] = []
        #: Held here for as long as they run: a loop alone does not keep its tasks from being collected.
        self._lines: set[asyncio.Task[None]] = set()
        self._news = threading.Condition()
        self._delayed: list[asyncio.Event] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        user, _, _ = parts.netloc.rpartition("@")
        port = self._listener.getsockname()[1]
        #: The server's URL through this proxy.
        self.url = parts._replace(netloc=f"{user}@127.0.0.1:{port}" if user else f"127.0.0.1:{port}").geturl()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    @property
    def struck(self) -> tuple[Fault, ...]:
        """The faults that have happened so far, in their order."""
        with self._news:
            return tuple(self._struck)

    def wait(self, count: int = 1, timeout_s: float = PATIENCE_S) -> None:
        """Block until ``count`` faults have happened; TimeoutError when they do not.

        A request that was to arrive has been answered by then.
        """
        with self._news:
            if not self._news.wait_for(lambda: len(self._struck) >= count, timeout_s):
                raise TimeoutError(f"{count} faults were expected; seen: {dict(self._seen)}, struck: {self._struck}")

    def wait_idle(self, timeout_s: float = PATIENCE_S) -> None:
        """Block until no connection is left: all that clients sent before they went away is done. Raises TimeoutError."""
        with self._news:
            if not self._news.wait_for(lambda: not self._lines, timeout_s):
                raise TimeoutError(f"{len(self._lines)} connections are still open")

    def release(self) -> None:
        """Let everything go on that is delayed now."""
        self._loop.call_soon_threadsafe(self._let_go)

    def heal(self) -> None:
        """No fault strikes from now on, and what is delayed goes on; what is half-open already stays so."""
        with self._news:
            self._faults.clear()
        self.release()

    def stop(self) -> None:
        """Cut every connection and stop serving."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listener)
        await self._stopping.wait()
        server.close()

    def _let_go(self) -> None:
        for delayed in self._delayed:
            delayed.set()
        self._delayed.clear()

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.create_task(self._connect(reader, writer))
        with self._news:
            self._lines.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        with self._news:
            self._lines.remove(task)
            self._news.notify_all()

    async def _connect(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            line = _Line((reader, writer), await asyncio.open_connection(*self._server))
        except OSError:
            writer.transport.abort()
            return
        line.flowing.set()
        line.answered.set()
        up = asyncio.create_task(self._pass_up(line))
        try:
            await self._pass_back(line)
        finally:
            up.cancel()
            for _, end in (line.client, line.server):
                end.transport.abort()

    async def _pass_up(self, line: _Line) -> None:
        """Client to server, until either ends or a fault ends it."""
        _, server = line.server
        with contextlib.suppress(ConnectionError):
            requests = self._wire.requests(*line.client)
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                async for request in requests:
                    fault = self._fault_for(request)
                    if fault is None:
                        server.write(request.data)
                        await server.drain()
                    else:
                        await self._strike(line, request, fault)
                    if line.is_cut:
                        break
            # The server finishes what it has got before it reads the end: nothing that was sent is lost by closing.
            server.write_eof()

    async def _pass_back(self, line: _Line) -> None:
        """Server to client, until the server ends."""
        _, client = line.client
        with contextlib.suppress(ConnectionError):
            while data := await self._reply(line):
                await line.flowing.wait()
                if not line.is_cut:
                    # Whoever is gone reads no reply, but what he asked for goes on.
                    with contextlib.suppress(ConnectionError):
                        client.write(data)
                        await client.drain()
        line.answered.set()
        await line.flowing.wait()

    async def _reply(self, line: _Line) -> bytes:
        """What the server says next: the whole of its reply where a fault waits for that, nothing at its end."""
        server, _ = line.server
        reply = data = await server.read(READ_BYTES_MAX)
        while data and not line.answered.is_set():
            if self._wire.is_whole(reply):
                line.answered.set()
            else:
                data = await server.read(READ_BYTES_MAX)
                reply += data
        return reply

    def _fault_for(self, request: Request) -> Fault | None:
        statement = recognise(request.text)
        if statement is None:
            return None
        with self._news:
            self._seen[statement] += 1
            return self._faults.get((statement, self._seen[statement]))

    async def _strike(self, line: _Line, request: Request, fault: Fault) -> None:
        data = request.data
        arriving = {
            Arrives.NOTHING: b"",
            Arrives.HALF: data[: len(data) // 2],
            Arrives.ALL: data,
            Arrives.TWICE: data + data,
        }[fault.arrives]
        line.is_cut = fault.then is Then.CUT
        line.answered.clear()
        if not line.is_cut:
            line.flowing.clear()
        _, server = line.server
        server.write(arriving)
        await server.drain()
        if len(arriving) >= len(data):
            await line.answered.wait()
        if line.is_cut:
            # The server may be at the second of two for long; it learns when it reads on.
            line.client[1].transport.abort()
            self._tell(fault)
            return
        released = asyncio.Event()
        if fault.then is Then.DELAY:
            self._delayed.append(released)
        self._tell(fault)
        await released.wait()
        server.write(data[len(arriving) :])
        line.flowing.set()

    def _tell(self, fault: Fault) -> None:
        with self._news:
            self._struck.append(fault)
            self._news.notify_all()
