"""The training node's side: from its spool to its region's store and Kafka."""
