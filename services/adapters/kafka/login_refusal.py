"""Why a Kafka does not let a user in, asked on a connection of its own.

The client library tries a refused login again until its time is over, and then reports the time only: the broker
closes right behind its answer, and the library takes the end of the connection for the error.
"""

from __future__ import annotations

import socket
import struct

from kafka.errors import KafkaError
from kafka.net.sasl import get_sasl_mechanism

from services.adapters.kafka.connection import KafkaCluster
from services.adapters.tls_faults import authorities

_HANDSHAKE, _AUTHENTICATE = (17, 1), (36, 0)  # api key and version: both are as old as SASL over Kafka's own protocol
_ANSWER_MOST = 1 << 20


def why_not_let_in(cluster: KafkaCluster, timeout_s: float) -> str:
    """The broker's own words; "" if it lets the user in, knows no users, or does not answer."""
    if cluster.user is None:
        return ""
    for address in cluster.bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            with socket.create_connection((host, int(port)), timeout=timeout_s) as plain:
                if cluster.tls_ca_file is None:
                    return _login(plain, host, cluster)
                context = authorities(cluster.tls_ca_file)
                with context.wrap_socket(plain, server_hostname=host) as wrapped:
                    return _login(wrapped, host, cluster)
        except (OSError, ValueError, LookupError, struct.error, KafkaError):
            continue  # that is no refusal; perhaps another broker answers
    return ""


def _login(connection: socket.socket, host: str, cluster: KafkaCluster) -> str:
    if cluster.user is None:
        return ""
    mechanism = cluster.user.mechanism
    answer = ask(connection, _HANDSHAKE, _text(mechanism))
    if struct.unpack(">h", answer[:2])[0]:
        return f"it does not know the mechanism {mechanism}"
    talk = get_sasl_mechanism(mechanism)(host=host, **cluster.options())
    while not talk.is_done():
        token = talk.auth_bytes()
        answer = ask(connection, _AUTHENTICATE, struct.pack(">i", len(token)) + token)
        code, length = struct.unpack(">hh", answer[:4])
        if code:
            return answer[4 : 4 + max(length, 0)].decode("utf-8", "replace") or f"error {code}"
        at = 4 + max(length, 0)
        (size,) = struct.unpack(">i", answer[at : at + 4])
        talk.receive(answer[at + 4 : at + 4 + size])
    return ""


def ask(connection: socket.socket, request: tuple[int, int], body: bytes) -> bytes:
    """One request in Kafka's framing; the answer without length and correlation id."""
    sent = struct.pack(">hhi", *request, 1) + _text("farside") + body
    connection.sendall(struct.pack(">i", len(sent)) + sent)
    (size,) = struct.unpack(">i", _exactly(connection, 4))
    if size > _ANSWER_MOST:
        raise ValueError(f"an answer of {size} bytes is no Kafka's")
    return _exactly(connection, size)[4:]


def _exactly(connection: socket.socket, count: int) -> bytes:
    read = b""
    while len(read) < count:
        piece = connection.recv(count - len(read))
        if not piece:
            raise ConnectionResetError("closed before its answer was whole")
        read += piece
    return read


def _text(word: str) -> bytes:
    return struct.pack(">h", len(word)) + word.encode()
