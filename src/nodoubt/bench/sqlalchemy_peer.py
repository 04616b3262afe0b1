"""SQLAlchemy's `Session(twophase=True)` over two engines.

`AsyncSession(twophase=True)` over asyncpg or asynchronous psycopg works, but gives a half and three quarters of the
transactions that the synchronous session in threads gives (SQLAlchemy 2.1): its asyncpg dialect ends each branch with
three more round trips. So the peer is the fastest of the three: psycopg, one thread per client.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from nodoubt.bench.contestants import SQLALCHEMY, Contestant
from nodoubt.bench.work import TABLE, amount, keys


class SQLAlchemy(Contestant):
    """Core statements in a session: the ORM's own bookkeeping of objects is not counted against it."""

    name = SQLALCHEMY
    note = "Session(twophase=True), textual SQL, psycopg, a thread per client: faster than its asynchronous dialects"

    async def open(self) -> None:
        from sqlalchemy import create_engine, text

        clients = self.options.clients
        self._engines = [
            create_engine(
                f"postgresql+psycopg://{url.partition('://')[2]}",
                pool_size=clients,
                max_overflow=0,
                pool_reset_on_return=None,
            )
            for url in self.urls
        ]
        self._update = text(f"UPDATE {TABLE} SET balance = balance + :amount WHERE id = :key")
        self._threads = ThreadPoolExecutor(clients, thread_name_prefix="bench")
        for engine in self._engines:
            held = [engine.connect() for _ in range(clients)]
            for connection in held:
                connection.close()

    async def run(self, lap: int, seconds: float) -> list[float]:
        loop, deadline = asyncio.get_running_loop(), time.perf_counter() + seconds
        clients = [
            loop.run_in_executor(self._threads, self._client, lap, n, deadline) for n in range(self.options.clients)
        ]
        return [latency for latencies in await asyncio.gather(*clients) for latency in latencies]

    def _client(self, lap: int, client: int, deadline: float) -> list[float]:
        from sqlalchemy.orm import Session

        key, latencies = keys(self.options.seed, lap, client), []
        while (began := time.perf_counter()) < deadline:
            with Session(twophase=True) as session:
                for number, engine in enumerate(self._engines):
                    values = {"amount": amount(number), "key": key()}
                    session.execute(self._update, values, bind_arguments={"bind": engine})
                session.commit()
            latencies.append(time.perf_counter() - began)
        return latencies

    async def close(self) -> None:
        self._threads.shutdown()
        for engine in self._engines:
            engine.dispose()
