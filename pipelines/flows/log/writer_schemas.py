"""The writers' schemas, kept in each region's store before their first use (design 7)."""

from __future__ import annotations

from pipelines import paths
from pipelines.ports import ObjectStore
from schemas.codec import Codec, DecodeError, fingerprint, record_types, schema_text, writer_of


def store_schemas(store: ObjectStore) -> None:
    """Leave the schema of every record that this version writes, create-only, for readers who lack it."""
    for cls in record_types().values():
        store.create(paths.schema(fingerprint(cls)), schema_text(cls).encode())


def learn(codec: Codec, text: bytes, value: bytes) -> None:
    """Teach the codec a schema that was fetched for `value`.

    Raises:
        DecodeError: the text is no schema, another one than the value names, or none by which it may be decoded.
    """
    try:
        name = codec.learn(text.decode())
    except Exception as error:  # fastavro raises many kinds on a text that is no schema; all mean the same here
        raise DecodeError(f"its schema is refused: {type(error).__name__}: {error}", value) from error
    if name != writer_of(value):
        raise DecodeError(f"under the name of its schema, {writer_of(value)}, lies another one: {name}", value)
