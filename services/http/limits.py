"""How much of a service strangers can hold: open connections, and requests that come in slowly or never end.

uvicorn waits for the rest of a request for ever, and accepts without end. So a request has a time in which its head and
body must have come, a connection that waits for one makes room when there are many, and of connections that have not
even made their TLS handshake only so many are accepted.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

BODY_BYTES_MAX = 1 << 20
HEAD_BYTES_MAX = 16 << 10
REQUEST_S = 10.0  # for a request's head and body, from its first byte or the connection's beginning
HANDSHAKE_S = 5.0
CONNECTIONS_MAX = 64  # beyond, the oldest whose request has not come makes room
ACCEPTED_MAX = 256  # with those that make their TLS handshake
KEPT_S = 5  # an idle connection is kept for the next request


class PunctualProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which gives up requests that do not come."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's signature
        """Begin to wait for the first request; the oldest that waits makes room if there are many."""
        super().connection_made(transport)
        self._expect()
        if len(self.connections) > CONNECTIONS_MAX:
            waiting = [one for one in self.connections if isinstance(one, PunctualProtocol) and one.waits_since_s]
            if waiting:
                min(waiting, key=lambda one: one.waits_since_s).give_up()

    def data_received(self, data: bytes) -> None:
        """Take in a part of a request."""
        self._expect()
        super().data_received(data)
        if self.conn.their_state not in {h11.IDLE, h11.SEND_BODY}:
            self._came()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._came()
        super().connection_lost(exc)

    @property
    def waits_since_s(self) -> float:
        """Since when a request is waited for, on the loop's clock; 0: none is."""
        return 0.0 if self._late is None else self._late.when() - REQUEST_S

    def give_up(self) -> None:
        """Close the connection without an answer."""
        self._came()
        self.transport.abort()

    def _expect(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(REQUEST_S, self.give_up)

    def _came(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class BoundedSocket(socket.socket):
    """A listening socket that accepts only so many connections at a time; what is too much is closed at once."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self._accepted: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def accept(self) -> tuple[socket.socket, object]:
        """The next connection; ConnectionAbortedError if there are too many, as if its peer had left."""
        connection, peer = super().accept()
        if sum(one.fileno() >= 0 for one in self._accepted) >= ACCEPTED_MAX:
            connection.close()
            raise ConnectionAbortedError("too many connections")
        self._accepted.add(connection)
        return connection, peer


class PunctualLoop(asyncio.SelectorEventLoop):
    """The event loop, which gives up TLS handshakes that do not end."""

    async def create_server(self, *args: Any, **options: Any) -> asyncio.Server:  # noqa: ANN401 - handed on
        """As the library's, with the handshake's time."""
        if options.get("ssl") is not None:
            options.setdefault("ssl_handshake_timeout", HANDSHAKE_S)
        return await super().create_server(*args, **options)
