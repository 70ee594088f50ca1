"""Long operations started by a command: drill, sweep, replay targets, rebuilding a region."""
