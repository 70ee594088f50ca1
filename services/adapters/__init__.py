"""Implementations of the ports on real systems, and the memory fakes that ship with them."""
