"""What asyncpg's errors are taken for, and that a BEGIN which rides with the first statement is as good as any other."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest

from nodoubt.nodes.asyncpg_driver import AsyncpgDriver, AsyncpgSession
from nodoubt.nodes.dialect import NodeSettings
from nodoubt.nodes.failures import ConnectionLost
from nodoubt.nodes.guard import Guard
from nodoubt.nodes.postgresql import RULES
from nodoubt.nodes.postgresql_rider import Rider
from tests.conftest import DatabaseFactory

BROKEN_BEGIN = "BEGIN ISOLATION LEVEL SIDEWAYS"


@pytest.fixture
def url(database: DatabaseFactory) -> str:
    return database("postgresql")


@pytest.fixture
async def session(url: str) -> AsyncIterator[AsyncpgSession]:
    """A session on a database with a table ``t (n)``."""
    session = await AsyncpgDriver().connect(NodeSettings(url=url))
    await session.command("CREATE TABLE t (n integer)")
    yield session
    session.abandon()


def _open(session: AsyncpgSession, begin: str = "BEGIN") -> Any:
    assert session.begin_later(begin)
    return session.bind(Guard("n", "g", RULES, is_home=True))


async def _rows(session: AsyncpgSession) -> int:
    ((count,),) = await session.query("SELECT count(*)::int FROM t")
    return int(count)


async def test_a_fatal_answer_says_nothing_of_the_statement(session: AsyncpgSession) -> None:
    """A session may be ended after its PREPARE was carried out and before that was answered: never a definite no."""
    with pytest.raises(ConnectionLost):
        await session.command("SELECT pg_terminate_backend(pg_backend_pid())")


async def _by_prepare(connection: Any) -> None:
    await (await connection.prepare("INSERT INTO t VALUES ($1)")).fetch(1)


async def _by_cursor(connection: Any) -> None:
    async for _ in connection.cursor("INSERT INTO t VALUES ($1) RETURNING n", 1):
        pass


async def _by_savepoint(connection: Any) -> None:
    async with connection.transaction():
        await connection.execute("INSERT INTO t VALUES ($1)", 1)


FIRST_STATEMENTS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "execute": lambda c: c.execute("INSERT INTO t VALUES ($1)", 1),
    "execute without arguments": lambda c: c.execute("INSERT INTO t VALUES (1)"),
    "executemany": lambda c: c.executemany("INSERT INTO t VALUES ($1)", [(1,), (2,)]),
    "fetch": lambda c: c.fetch("INSERT INTO t VALUES (1) RETURNING n"),
    "fetchval": lambda c: c.fetchval("INSERT INTO t VALUES (1) RETURNING n"),
    "fetchrow": lambda c: c.fetchrow("INSERT INTO t VALUES (1) RETURNING n"),
    "prepare": _by_prepare,
    "cursor": _by_cursor,
    "savepoint": _by_savepoint,
    "copy": lambda c: c.copy_to_table("t", source=io.BytesIO(b"1\n")),
    "copy of records": lambda c: c.copy_records_to_table("t", records=[(1,)]),
}


@pytest.mark.parametrize("first", FIRST_STATEMENTS)
async def test_the_first_statement_is_inside(session: AsyncpgSession, first: str) -> None:
    """Twice: the second time asyncpg knows the statement, and sends it in one packet."""
    for _ in range(2):
        await FIRST_STATEMENTS[first](_open(session))
        assert await _rows(session) > 0
        await session.command("ROLLBACK")
        session.unbind()
        assert await _rows(session) == 0


@pytest.mark.parametrize("first", FIRST_STATEMENTS)
async def test_nothing_is_run_when_its_begin_fails(session: AsyncpgSession, url: str, first: str) -> None:
    """Nor is the next statement, although a server that has no transaction open would carry it out at once."""
    await FIRST_STATEMENTS[first](_open(session))
    await session.command("ROLLBACK")
    session.unbind()
    connection = _open(session, BROKEN_BEGIN)
    for _ in range(2):
        with pytest.raises(asyncpg.PostgresSyntaxError, match="SIDEWAYS"):
            await FIRST_STATEMENTS[first](connection)
    session.unbind()
    other = await AsyncpgDriver().connect(NodeSettings(url=url))
    assert await _rows(other) == 0
    other.abandon()


async def test_a_branch_without_statements_begins_with_its_end(session: AsyncpgSession) -> None:
    _open(session)
    assert await session.command("INSERT INTO t VALUES (1);COMMIT") == "COMMIT"
    _open(session)
    await session.command("INSERT INTO t VALUES (2)")
    await session.command("ROLLBACK")
    assert await _rows(session) == 1


async def test_a_statement_that_never_left_leaves_the_branch_open(session: AsyncpgSession) -> None:
    """asyncpg refuses arguments before it sends anything, when BEGIN is under way already."""
    connection = _open(session)
    with pytest.raises(asyncpg.DataError):
        await connection.execute("INSERT INTO t VALUES ($1)", "not a number")
    with pytest.raises(asyncpg.DataError):
        await connection.execute("INSERT INTO t VALUES ($1)", "not a number")
    assert await session.command("ROLLBACK") == "ROLLBACK"
    assert await _rows(session) == 0


class _Wire(asyncio.Transport):
    """A transport that drops what it is told to send."""

    def __init__(self, own: socket.socket) -> None:
        super().__init__({"socket": own})

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...

    def write(self, data: bytes | bytearray | memoryview) -> None: ...


class _Heard(asyncio.Protocol):
    """A driver that remembers what it was given."""

    def __init__(self) -> None:
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data


@pytest.fixture
def heard() -> _Heard:
    return _Heard()


@pytest.fixture
def rider(heard: _Heard) -> Iterator[Rider]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        rider = Rider(_Wire(ours), heard)
        yield rider
        rider.connection_lost(None)


DONE = b"1\0\0\0\x04" + b"2\0\0\0\x04" + b"C\0\0\0\x0aBEGIN\0"
NOTICE = b"N\0\0\0\x09hello"
STATEMENT = b"2\0\0\0\x04C\0\0\0\x0dUPDATE 1\0Z\0\0\0\x05T"


@pytest.mark.parametrize(
    "answer", [DONE, NOTICE + DONE, DONE[:5] + NOTICE + DONE[5:]], ids=["alone", "before", "between"]
)
def test_the_answer_may_come_in_any_pieces(rider: Rider, heard: _Heard, answer: bytes) -> None:
    data = answer + STATEMENT
    for first in range(1, len(data)):
        for second in range(first, len(data)):
            heard.data, rider.waiting = b"", "BEGIN"
            rider.ride()
            for piece in (data[:first], data[first:second], data[second:]):
                rider.data_received(piece)
            assert heard.data == answer.replace(DONE[:5], b"").replace(DONE[5:], b"") + STATEMENT
            assert not rider.waiting


def test_what_is_not_the_answer_is_handed_on(rider: Rider, heard: _Heard) -> None:
    rider.data_received(DONE)
    assert heard.data == DONE


@pytest.mark.parametrize("ask", [AsyncpgSession.command, AsyncpgSession.query])
async def test_a_goodbye_that_was_read_before_the_end_is_a_lost_connection(
    session: AsyncpgSession, ask: Callable[[AsyncpgSession, str], Awaitable[Any]]
) -> None:
    fields = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
    session._raw._protocol.data_received(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
    with pytest.raises(ConnectionLost):
        await ask(session, "SELECT 1")
