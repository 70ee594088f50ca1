"""Services that end all the same are started again, by the local stack's supervisor."""

from __future__ import annotations

from tests.hostile.cases import Case

CASES: tuple[Case, ...] = ()
