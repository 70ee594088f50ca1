"""One question to all ranks of a training job, through torch's process group where there is one."""

from __future__ import annotations

import sys


def all_ranks(healthy: bool) -> bool:  # noqa: FBT001 - the value that is reduced, not a switch
    """Whether every rank is healthy.

    Ranks that start from different steps train a wrong model without an error, so if one rank cannot
    reach its spool, all of them go on without.
    """
    return _vote(healthy, "MIN")


def any_rank(yes: bool) -> bool:  # noqa: FBT001 - the value that is reduced, not a switch
    """Whether at least one rank says yes."""
    return _vote(yes, "MAX")


def _vote(mine: bool, how: str) -> bool:  # noqa: FBT001 - as above
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return mine
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    vote = torch.tensor([int(mine)], device=device)
    torch.distributed.all_reduce(vote, op=getattr(torch.distributed.ReduceOp, how))
    return bool(vote.item())
