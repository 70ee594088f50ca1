"""The same port around a port: retries, metering, faults."""
