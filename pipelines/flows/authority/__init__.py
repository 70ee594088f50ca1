"""The authority over a run: leases, detectors, planned moves, launches, and their status."""
