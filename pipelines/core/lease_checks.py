"""Whether a lease record that could be decoded makes sense. Pure.

What decides about authority reads a record's figures as they stand: an empty chain, another run's record under this
run's key, or a mode of a later version must stop this run with a reason, before anything is concluded from it.
"""

from __future__ import annotations

import itertools
import math

from pipelines.core.lease import ACTIVE, HANDOVER, PAUSED, RELEASED
from pipelines.errors import CorruptError
from schemas.records import Lease

EPOCH_MAX = 999_999  # as many digits as a key has for it
LEASE_S_MAX = 86_400.0
_MODES = (ACTIVE, HANDOVER, RELEASED, PAUSED)


def checked(lease: Lease, run: str) -> Lease:
    """The record itself.

    Args:
        lease: as it was decoded.
        run: whose record was asked for.

    Raises:
        CorruptError: it is not one that a controller of this version could have written; the text says what is wrong.
    """
    wrong = fault_of(lease, run)
    if wrong:
        raise CorruptError(
            f"the lease record of {run} cannot be believed: {wrong}. Nothing is decided about this run until a person "
            "has looked at the witness (docs/failover.md)"
        )
    return lease


def fault_of(lease: Lease, run: str) -> str:
    """Why a record cannot be believed; "" if it can."""
    epochs = [entry.epoch for entry in lease.lineage]
    ends = bool(epochs) and epochs[-1] == lease.epoch and 1 <= lease.epoch <= EPOCH_MAX
    rises = all(entry.parent_epoch < entry.epoch for entry in lease.lineage) and all(
        earlier < later for earlier, later in itertools.pairwise(epochs)
    )
    promises = {
        f"it is that of {lease.run!r}": lease.run == run,
        f"its mode is {lease.mode!r}, and this version knows {', '.join(_MODES)}": lease.mode in _MODES,
        f"it is of epoch {lease.epoch}, and its chain ends with {epochs[-1:]}": ends,
        "its epochs do not rise along the chain": rises,
        f"its length is {lease.lease_s} s": math.isfinite(lease.lease_s) and 0 < lease.lease_s <= LEASE_S_MAX,
        "it has a negative counter": min(lease.renew_seq, lease.attempt) >= 0,
        "it names no writer": bool(lease.write_id and lease.holder),
    }
    return next((wrong for wrong, kept in promises.items() if not kept), "")
