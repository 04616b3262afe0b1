"""How PostgreSQL's and MariaDB's clients speak: a stream of bytes cut into requests, each with its SQL.

A request is what a client sends before it waits for an answer. PostgreSQL: "Message Formats" of the manual's chapter on the
frontend/backend protocol; MariaDB: "Connecting" and "COM_QUERY" of its client/server protocol.
"""

from __future__ import annotations

from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Final

#: SSLRequest and GSSENCRequest, which stand where a protocol version would.
_ENCRYPTION: Final = (80877103, 80877104)
#: Parse, Bind, Describe, Execute and Close: nobody waits for an answer before a Sync or a Flush.
_UNANSWERED: Final = b"PBDEC"
_COM_QUERY: Final = b"\x03"


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent: all of its bytes, and the SQL that the server is to run now (else empty)."""

    data: bytes
    text: bytes = b""


async def postgresql(client: StreamReader, back: StreamWriter) -> AsyncIterator[Request]:
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


async def mariadb(client: StreamReader, _back: StreamWriter) -> AsyncIterator[Request]:
    """Requests of a MariaDB or MySQL client that neither encrypts nor compresses."""
    while True:
        head = await client.readexactly(4)
        body = await client.readexactly(int.from_bytes(head[:3], "little"))
        # Commands begin at number 0; the packets of a login go on from the server's greeting.
        is_query = head[3] == 0 and body[:1] == _COM_QUERY
        yield Request(head + body, body[1:] if is_query else b"")


WIRES: Final[Mapping[str, Callable[[StreamReader, StreamWriter], AsyncIterator[Request]]]] = {
    "postgresql": postgresql,
    "mariadb": mariadb,
    "mysql": mariadb,
}
