"""Fakes that ship with the product: the same contracts in memory, one file a port."""
