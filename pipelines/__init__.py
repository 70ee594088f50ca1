"""What the system decides and does; no I/O of its own."""
