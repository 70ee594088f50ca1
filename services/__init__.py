"""Processes and real I/O."""
