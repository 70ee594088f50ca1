"""The permissions of each role in the stores and in Kafka."""
