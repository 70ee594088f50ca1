"""Confluent's wire format, from ours: bytes to bytes.

Source: Confluent's Schema Registry documentation, "Wire format": the magic byte 0, the number that the registry gave
the writer's schema (4 bytes, big-endian), then the Avro datum. The datum is the one that stands in single-object
encoding behind the fingerprint, so only the header is exchanged: nothing is encoded again.
"""

from __future__ import annotations

import json
import struct

from schemas.codec import HEADER_BYTES, writer_of

MAGIC = 0
ID_MAX = 2**31 - 1  # readers take it for a signed number of 4 bytes
_HEADER = struct.Struct(">Bi")


def framed(value: bytes, schema_id: int) -> bytes:
    """Single-object bytes in Confluent's wire format.

    Raises:
        DecodeError: the bytes are not single-object encoding.
        ValueError: no registry has such an id.
    """
    if not 0 <= schema_id <= ID_MAX:
        raise ValueError(f"a schema's id is a number from 0 to {ID_MAX}, not {schema_id}")
    writer_of(value)
    return _HEADER.pack(MAGIC, schema_id) + value[HEADER_BYTES:]


def subject_of(schema: str) -> str:
    """Under which subject a schema (JSON text of a named type) is registered: its full Avro name.

    That is Confluent's RecordNameStrategy. A lane's topic carries several record types, which the default strategy,
    one subject a topic, has no room for.
    """
    plain = json.loads(schema)
    name, namespace = str(plain["name"]), str(plain.get("namespace", ""))
    return name if "." in name or not namespace else f"{namespace}.{name}"
