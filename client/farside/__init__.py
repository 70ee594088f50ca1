"""The small library with which a training script hands its checkpoints to Farside.

    run = farside.Run.attach()
    start = run.start()
    if start.reader:
        dcp.load(state, storage_reader=start.reader)
        farside.rng.restore(start.rank_state)
    ...
    run.beat(step)
    run.metric(step, loss=loss)
    run.rank_state(step, farside.rng.capture())
    dcp.async_save(state, storage_writer=run.writer(step), process_group=checkpoint_group)

Importing this imports neither torch nor numpy.
"""

from farside import fingerprint, rng
from farside._run import GivenUp, Run, Start, Status
from farside.errors import CorruptCheckpointError, SupersededError, UnsupportedValueError

__all__ = [
    "CorruptCheckpointError",
    "GivenUp",
    "Run",
    "Start",
    "Status",
    "SupersededError",
    "UnsupportedValueError",
    "fingerprint",
    "rng",
]
