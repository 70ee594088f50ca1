"""The frame every service runs in: process, scheduler, journal, wiring, child processes."""
