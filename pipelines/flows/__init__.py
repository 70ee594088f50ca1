"""Observe, let the core decide, act through ports; one file a pipeline."""
