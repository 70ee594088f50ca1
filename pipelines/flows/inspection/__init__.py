"""Tools for people: replay, audit, dead letters."""
