"""Kafka: read through kafka-python; written through it or through librdkafka."""
