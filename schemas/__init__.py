"""The data that crosses a boundary: Avro schemas, the frozen records that match them, and the codec."""
