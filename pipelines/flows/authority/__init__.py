"""Who may write for a run: leases, detectors, planned moves, launches, and what is said of them."""
