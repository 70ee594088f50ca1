"""Why a Kafka is not reached, tried on connections of its own: the client library says of each mistake the same.

A name that does not resolve, a port that refuses, a certificate that is not trusted, TLS on one side only: each has its
own sentence with what to do. What only a person can put right is told apart from what may be over in a moment.
"""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import dataclass
from pathlib import Path

from services.adapters.kafka.connection import KafkaCluster
from services.adapters.kafka.login_refusal import ask
from services.adapters.tls_faults import authorities, certificate_fault

_API_VERSIONS = (18, 0)  # what every broker answers to everybody, also before a login


@dataclass(frozen=True, slots=True)
class Unreached:
    """Why, and whether only a person can change it."""

    why: str
    permanent: bool = False


def why_not_reached(cluster: KafkaCluster, timeout_s: float) -> Unreached | None:
    """The reason for each of a cluster's addresses; None if one of them answers as the settings say.

    Args:
        cluster: its addresses, and whether TLS is to be spoken.
        timeout_s: for each connection.
    """
    found = []
    for address in cluster.bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        if not host or not port.isdigit():
            return Unreached(f"{address!r} is no address: give host:port, several with commas between", permanent=True)
        fault = _knock((host, int(port)), cluster.tls_ca_file, timeout_s)
        if fault is None:
            return None
        found.append(fault)
    return Unreached("; ".join(fault.why for fault in found), permanent=all(fault.permanent for fault in found))


def _knock(place: tuple[str, int], ca_file: Path | None, timeout_s: float) -> Unreached | None:
    named = f"{place[0]}:{place[1]}"
    try:
        with socket.create_connection(place, timeout_s) as connection:
            return _plain(connection, place) if ca_file is None else _secured(connection, place, ca_file)
    except socket.gaierror:
        return Unreached(f"the name {place[0]} does not resolve: check kafka in the settings, and this host's resolver")
    except ConnectionRefusedError:
        return Unreached(f"{named} refuses connections: is the broker up, and is this its port?")
    except OSError as error:
        return Unreached(f"{named} does not answer ({error})")


def _secured(connection: socket.socket, place: tuple[str, int], ca_file: Path) -> Unreached | None:
    named, timeout_s = f"{place[0]}:{place[1]}", connection.gettimeout() or 1.0
    try:
        with authorities(ca_file).wrap_socket(connection, server_hostname=place[0]):
            return None
    except ssl.SSLCertVerificationError as error:
        why = certificate_fault(error, place[0], f"kafka_tls_ca_file ({ca_file})")
        return Unreached(f"{named}: {why}", permanent=True)
    except OSError as error:
        if _answers_plainly(place, timeout_s):
            why = "speaks no TLS: give the port of the broker's TLS listener, or leave kafka_tls_ca_file out"
            return Unreached(f"{named} {why}", permanent=True)
        return Unreached(f"{named}: the TLS handshake broke off ({error})")


def _plain(connection: socket.socket, place: tuple[str, int]) -> Unreached | None:
    named, timeout_s = f"{place[0]}:{place[1]}", connection.gettimeout() or 1.0
    try:
        ask(connection, _API_VERSIONS, b"")
    except (OSError, ValueError, struct.error) as error:
        if _speaks_tls(place, timeout_s):
            why = "speaks TLS only: name its certificate authority in kafka_tls_ca_file, or give the plain port"
            return Unreached(f"{named} {why}", permanent=True)
        return Unreached(f"{named} takes connections and does not answer as a Kafka does ({error})")
    return None


def _answers_plainly(place: tuple[str, int], timeout_s: float) -> bool:
    try:
        with socket.create_connection(place, timeout_s) as connection:
            ask(connection, _API_VERSIONS, b"")
    except (OSError, ValueError, struct.error):
        return False
    return True


def _speaks_tls(place: tuple[str, int], timeout_s: float) -> bool:
    """Whether a handshake begins there at all: nothing is sent, so nobody needs to be trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(place, timeout_s) as connection, context.wrap_socket(connection):
            return True
    except OSError:
        return False
