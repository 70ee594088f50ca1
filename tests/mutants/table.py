"""Faults planted by hand, each with the tests that must see it: if one lives, a promise is not checked."""

from __future__ import annotations

from tests.mutants.agent_faults import AGENT_FAULTS
from tests.mutants.api_faults import API_FAULTS
from tests.mutants.authority_faults import AUTHORITY_FAULTS
from tests.mutants.honesty_faults import HONESTY_FAULTS
from tests.mutants.other_faults import OTHER_FAULTS
from tests.mutants.places import Mutant
from tests.mutants.replication_faults import REPLICATION_FAULTS
from tests.mutants.trust_faults import TRUST_FAULTS

__all__ = ["MUTANTS", "Mutant"]

MUTANTS = (
    *AUTHORITY_FAULTS,
    *REPLICATION_FAULTS,
    *AGENT_FAULTS,
    *HONESTY_FAULTS,
    *API_FAULTS,
    *OTHER_FAULTS,
    *TRUST_FAULTS,
)
