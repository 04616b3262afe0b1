"""How PostgreSQL's and MariaDB's clients speak: bytes cut into requests, each with its SQL, and where the reply to one ends.

A request is what a client sends before it waits for an answer. PostgreSQL: "Message Formats" of the manual's chapter on the
frontend/backend protocol; MariaDB: "Connecting", "COM_QUERY" and its response in the client/server protocol.
"""

from __future__ import annotations

from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

#: SSLRequest and GSSENCRequest, which stand where a protocol version would.
_ENCRYPTION: Final = (80877103, 80877104)
#: Parse, Bind, Describe, Execute and Close: nobody waits for an answer before a Sync or a Flush.
_UNANSWERED: Final = b"PBDEC"
#: ReadyForQuery, but for the state of the transaction at its end.
_READY: Final = b"Z\0\0\0\5"
_COM_QUERY: Final = b"\x03"
_OK, _EOF, _ERROR = 0x00, 0xFE, 0xFF
#: SERVER_MORE_RESULTS_EXISTS
_MORE: Final = 0x0008


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent: all of its bytes, and the SQL that the server is to run now (else empty)."""

    data: bytes
    text: bytes = b""


async def _postgresql_requests(client: StreamReader, back: StreamWriter) -> AsyncIterator[Request]:
    """Requests of a PostgreSQL client. Encryption is refused to it, since nothing could be read."""
    while True:
        head = await client.readexactly(8)
        body = await client.readexactly(int.from_bytes(head[:4]) - 8)
        if int.from_bytes(head[4:]) not in _ENCRYPTION:
            break
        back.write(b"N")
    yield Request(head + body)
    prepared: dict[bytes, bytes] = {}
    data = text = b""
    while True:
        head = await client.readexactly(5)
        body = await client.readexactly(int.from_bytes(head[1:]) - 4)
        data += head + body
        match head[:1]:
            case b"Q":
                text = body
            case b"P":
                name, query, _ = body.split(b"\0", 2)
                prepared[name] = query
            case b"B":
                _portal, name, _ = body.split(b"\0", 2)
                text += prepared.get(name, b"") + b";"
        if head[:1] not in _UNANSWERED:
            yield Request(data, text)
            data = text = b""


async def _mariadb_requests(client: StreamReader, _back: StreamWriter) -> AsyncIterator[Request]:
    """Requests of a MariaDB or MySQL client that neither encrypts nor compresses."""
    while True:
        head = await client.readexactly(4)
        body = await client.readexactly(int.from_bytes(head[:3], "little"))
        # Commands begin at number 0; the packets of a login go on from the server's greeting.
        is_query = head[3] == 0 and body[:1] == _COM_QUERY
        yield Request(head + body, body[1:] if is_query else b"")


def _postgresql_is_whole(reply: bytes) -> bool:
    return reply[-6:-1] == _READY


def _mariadb_is_whole(reply: bytes) -> bool:
    ends = 0
    for packet in _packets(reply):
        first = packet[0]
        if first == _ERROR:
            return True
        if not ends and first != _OK:
            ends = 2  # of its columns, and of its rows
            continue
        if first == _OK and not ends:
            at = _behind_integer(packet, _behind_integer(packet, 1))
        elif first == _EOF and len(packet) < 9:
            at = 3
            ends -= 1
        else:
            continue
        if not ends and not int.from_bytes(packet[at : at + 2], "little") & _MORE:
            return True
    return False


def _packets(reply: bytes) -> Iterator[bytes]:
    """The packets of MariaDB's that are there in full, without their heads."""
    at = 0
    while len(reply) >= (end := at + 4 + int.from_bytes(reply[at : at + 3], "little")) > at + 4:
        yield reply[at + 4 : end]
        at = end


def _behind_integer(packet: bytes, at: int) -> int:
    """Where a length-encoded integer ends."""
    return at + {0xFC: 3, 0xFD: 4, 0xFE: 9}.get(packet[at], 1)


@dataclass(frozen=True, slots=True)
class Wire:
    """One kind of server's protocol."""

    #: A client's requests, from its first byte on; what it is told beside the server's own words goes to the writer.
    requests: Callable[[StreamReader, StreamWriter], AsyncIterator[Request]]
    #: Whether these bytes, all that came since a request, are the whole of its reply: of each of its statements.
    is_whole: Callable[[bytes], bool]


_MARIADB: Final = Wire(_mariadb_requests, _mariadb_is_whole)
WIRES: Final[Mapping[str, Wire]] = {
    "postgresql": Wire(_postgresql_requests, _postgresql_is_whole),
    "mariadb": _MARIADB,
    "mysql": _MARIADB,
}
