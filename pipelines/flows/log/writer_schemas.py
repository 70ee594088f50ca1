"""The writers' schemas, kept in each region's store before their first use (design 7)."""

from __future__ import annotations

from pipelines import paths
from pipelines.ports import ObjectStore
from schemas.codec import Codec, DecodeError, fingerprint, record_types, schema_text


def store_schemas(store: ObjectStore) -> None:
    """Leave the schema of every record that this version writes, create-only, for readers who lack it."""
    for cls in record_types().values():
        store.create(paths.schema(fingerprint(cls)), schema_text(cls).encode())


def learn(codec: Codec, text: bytes, value: bytes) -> None:
    """Teach the codec a schema that was fetched for `value`.

    Raises:
        DecodeError: the text is no schema.
    """
    try:
        codec.learn(text.decode())
    except Exception as error:  # fastavro raises many kinds on a text that is no schema; all mean the same here
        raise DecodeError(f"its schema is no schema: {type(error).__name__}: {error}", value) from error
