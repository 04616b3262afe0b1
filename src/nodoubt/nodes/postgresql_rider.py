"""A BEGIN that rides in the packet of the first statement, so that opening a branch costs no round trip.

It goes as Parse, Bind and Execute *without* a Sync. The server carries out such messages with those that follow, and after an
error it skips all of them up to the next Sync (PostgreSQL manual, 55.2.4 "Pipelining"). So should BEGIN fail, the statement
behind it is not run either: nothing of a user is ever carried out outside the transaction.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import struct
from functools import cache

#: The kinds of the answers to Parse, Bind and Execute, and all three as they come when nothing comes between.
_KINDS = b"12C"
_ANSWER = b"1\0\0\0\x04" + b"2\0\0\0\x04" + b"C\0\0\0\x0aBEGIN\0"
_ERROR = ord("E")
_HEADER = struct.Struct("!BI")
#: Lets the kernel hold the packet back for the statement; Linux only.
_MORE = getattr(socket, "MSG_MORE", 0)


@cache
def _packet(sql: str) -> bytes:
    bodies = {"P": b"\0" + sql.encode() + b"\0\0\0", "B": bytes(8), "E": bytes(5)}
    return b"".join(_HEADER.pack(ord(kind), 4 + len(body)) + body for kind, body in bodies.items())


class Rider(asyncio.Protocol):
    """Stands between a transport and the driver's own protocol, and keeps the answers to our BEGINs from it."""

    def __init__(self, transport: asyncio.Transport, driver: asyncio.Protocol) -> None:
        self._transport = transport
        self._driver = driver
        self._hand_on = driver.data_received
        #: The BEGIN that is to be sent; "" when the server has it.
        self.waiting = ""
        self._sent = ""
        #: Kinds of answers that are still to come, and the beginning of one that came in part.
        self._due = b""
        self._unread = b""
        own = transport.get_extra_info("socket")
        self._socket = socket.socket(own.family, own.type, fileno=os.dup(own.fileno()))
        encrypted = transport.get_extra_info("ssl_object") is not None
        self._unheard = select.poll()
        self._unheard.register(self._socket, select.POLLIN)
        self._takes_flags = own.family in (socket.AF_INET, socket.AF_INET6) and not encrypted
        transport.set_protocol(self)

    def is_idle(self) -> bool:
        """Whether the connection is open with nothing to be read from it: a server that has gone has said so."""
        return not self._unheard.poll(0)

    def is_under_way(self) -> bool:
        """Whether the BEGIN is not answered yet."""
        return bool(self.waiting or self._due)

    def ride(self) -> None:
        """Send the BEGIN that waits; the driver must send an extended query next."""
        self._sent, self.waiting, self._due = self.waiting, "", _KINDS
        packet, sent = _packet(self._sent), 0
        if self._takes_flags and not self._transport.get_write_buffer_size():
            try:
                sent = self._socket.send(packet, _MORE)
            except OSError:
                # A connection that is broken is the transport's to report.
                sent = 0
        if sent < len(packet):
            self._transport.write(packet[sent:])

    def data_received(self, data: bytes) -> None:
        if not self._due:
            self._hand_on(data)
        elif data.startswith(_ANSWER) and not self._unread and self._due == _KINDS:
            self._due = b""
            if len(data) > len(_ANSWER):
                self._hand_on(data[len(_ANSWER) :])
        elif others := self._take_out(self._unread + data):
            self._hand_on(others)

    def _take_out(self, data: bytes) -> bytes:
        """Everything but the answers that are due; a message that came in part is kept until the rest is there."""
        others, at = b"", 0
        while self._due and len(data) >= at + _HEADER.size:
            kind, length = _HEADER.unpack_from(data, at)
            end = at + 1 + length
            if end > len(data):
                break
            if kind == self._due[0]:
                self._due = self._due[1:]
            else:
                others += data[at:end]
            if kind == _ERROR:
                # To the driver it is the answer to the statement, which it is. The next statement needs a BEGIN again.
                self._due, self.waiting = b"", self._sent
            at = end
        self._unread = data[at:] if self._due else b""
        return others if self._due else others + data[at:]

    def eof_received(self) -> bool | None:
        return self._driver.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._socket.close()
        self._driver.connection_lost(exc)

    def pause_writing(self) -> None:
        self._driver.pause_writing()

    def resume_writing(self) -> None:
        self._driver.resume_writing()
