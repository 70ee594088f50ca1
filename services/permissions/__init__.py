"""Which user may do what in which store or Kafka."""
