"""Which checkpoints stay and which are deleted: sweeps and pins."""
