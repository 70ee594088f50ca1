"""The standby pool: the newest recoverable checkpoint, kept resident and rehearsed."""
