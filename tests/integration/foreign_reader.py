"""Readers that are not ours: fastavro and confluent-kafka, and nothing of Farside.

Runs in an environment of its own: `python -I foreign_reader.py <schemas> <client.json> <topic> ...`. The schemas are an
exported folder, or the address of a schema registry: then confluent-kafka's own deserializer reads the values.
Prints one JSON line for each record, with the values as it understood them.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import confluent_kafka
import fastavro
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

Decoded = Callable[[str, bytes], dict[str, Any]]


def by_folder(folder: Path) -> Decoded:
    """By Avro's own rule: two bytes of marker, eight of fingerprint, the datum."""
    known: dict[str, Any] = {}

    def decoded(_topic: str, value: bytes) -> dict[str, Any]:
        assert value[:2] == b"\xc3\x01"
        name = value[2:10].hex()
        if name not in known:
            text = (folder / "schemas" / f"{name}.avsc").read_text(encoding="utf-8")
            known[name] = fastavro.parse_schema(json.loads(text))
        body = io.BytesIO(value[10:])
        found = fastavro.schemaless_reader(body, known[name], None)
        assert body.read() == b""
        return {"name": known[name]["name"].rpartition(".")[2], "record": found}

    return decoded


def by_registry(url: str) -> Decoded:
    """As whoever has a registry reads: the settings are the library's own."""
    client = SchemaRegistryClient({"url": url})
    deserializer = AvroDeserializer(client)

    def decoded(topic: str, value: bytes) -> dict[str, Any]:
        found = deserializer(value, SerializationContext(topic, MessageField.VALUE))
        schema = json.loads(client.get_schema(int.from_bytes(value[1:5], "big")).schema_str)
        return {"name": schema["name"].rpartition(".")[2], "record": found}

    return decoded


def main() -> None:
    """Read each topic from its beginning to the end that it has now."""
    schemas, settings, topics = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), sys.argv[3:]
    decoded = by_registry(schemas) if schemas.startswith("http") else by_folder(Path(schemas))
    ours = {"group.id": "unused", "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = confluent_kafka.Consumer({**ours, "isolation.level": "read_committed", **settings})
    for topic in topics:
        consumer.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
        while (message := consumer.poll(20)) is not None:
            code = None if message.error() is None else message.error().code()
            if code == confluent_kafka.KafkaError._PARTITION_EOF:
                break
            if code == confluent_kafka.KafkaError.GROUP_AUTHORIZATION_FAILED:
                continue  # it looks for its group all the same; who assigns partitions needs none
            if code is not None:
                raise SystemExit(str(message.error()))
            headers = [[key, value.decode()] for key, value in message.headers() or []]
            line = {"topic": topic, "offset": message.offset(), "key": message.key().decode(), "headers": headers}
            print(json.dumps(line | decoded(topic, message.value()), default=bytes.hex))  # noqa: T201 - its answer
        if message is None:
            raise SystemExit(f"{topic}: its end was not reached")
    consumer.close()


main()
