"""The system's decisions and flows; no I/O of its own."""
