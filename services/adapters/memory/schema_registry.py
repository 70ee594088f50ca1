"""A schema registry in memory."""

from __future__ import annotations

import json

import fastavro

from pipelines.errors import MisconfiguredError


class MemorySchemaRegistry:
    """Implements SchemaRegistry: one number a schema, whatever the subject. It judges no compatibility."""

    def __init__(self) -> None:
        self.subjects: dict[str, list[int]] = {}
        self.schemas: list[str] = []

    def register(self, subject: str, schema: str) -> int:
        """The id of a schema under a subject; MisconfiguredError if it is none."""
        try:
            fastavro.parse_schema(json.loads(schema))
        except Exception as error:  # fastavro raises many kinds on a text that is no schema; all mean the same here
            raise MisconfiguredError(f"{subject}: no Avro schema: {error}") from error
        if schema not in self.schemas:
            self.schemas.append(schema)
        number = self.schemas.index(schema) + 1
        versions = self.subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number
