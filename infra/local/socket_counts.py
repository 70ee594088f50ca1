"""Bytes that crossed connections which are still open, as the kernel counts them (netlink's sock_diag)."""

import socket
import struct
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_INFO = 2  # the attribute that carries struct tcp_info
_ESTABLISHED, _CLOSE_WAIT = 1, 8
_MESSAGE_HEADER = struct.Struct("=IHHII")
_DIAG_HEADER_SIZE = 72
_ATTRIBUTE_HEADER_SIZE = 4
_BYTES_ACKED_AT = 120  # in struct tcp_info, followed by bytes_received


@dataclass(frozen=True, slots=True)
class SocketBytes:
    """Bytes that this end received from, and that were acknowledged by, its peers."""

    received: int = 0
    sent: int = 0


def open_connection_bytes(local_ports: Collection[int]) -> dict[int, SocketBytes]:
    """Sums the open IPv4 connections accepted on each of these ports; a port without any has zeros."""
    total: defaultdict[int, SocketBytes] = defaultdict(SocketBytes)
    total.update({port: SocketBytes() for port in local_ports})
    for port, received, sent in _dump():
        if port in total:
            before = total[port]
            total[port] = SocketBytes(before.received + received, before.sent + sent)
    return total


def _dump() -> Iterator[tuple[int, int, int]]:
    states = 1 << _ESTABLISHED | 1 << _CLOSE_WAIT
    wanted = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, states) + bytes(48)
    header = _MESSAGE_HEADER.pack(_MESSAGE_HEADER.size + len(wanted), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(1.0)
        kernel.send(header + wanted)
        while True:
            block = kernel.recv(1 << 16)
            while len(block) >= _MESSAGE_HEADER.size:
                length, kind, *_rest = _MESSAGE_HEADER.unpack_from(block)
                if kind in {_NLMSG_DONE, _NLMSG_ERROR}:
                    return
                yield from _connection(block[_MESSAGE_HEADER.size : length])
                block = block[(length + 3) & ~3 :]


def _connection(message: bytes) -> Iterator[tuple[int, int, int]]:
    (port,) = struct.unpack_from(">H", message, 4)
    attributes = message[_DIAG_HEADER_SIZE:]
    while len(attributes) >= _ATTRIBUTE_HEADER_SIZE:
        length, kind = struct.unpack_from("=HH", attributes)
        if kind == _INFO and length >= 4 + _BYTES_ACKED_AT + 16:
            acked, received = struct.unpack_from("=QQ", attributes, 4 + _BYTES_ACKED_AT)
            yield port, received, acked
        attributes = attributes[max(4, (length + 3) & ~3) :]
