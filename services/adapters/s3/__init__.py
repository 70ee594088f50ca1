"""S3 servers: object store, lease store, and the probe a witness must pass."""
