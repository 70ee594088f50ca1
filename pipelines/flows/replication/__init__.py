"""Following a peer's lanes: copies, verification, re-publishing, alarms, rebuilding."""
