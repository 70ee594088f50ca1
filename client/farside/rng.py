"""A rank's random state as bytes without code: torch, CUDA, Python's ``random``, numpy if it is used.

run.rank_state(step, rng.capture(sampler={"seed": 7, "position": 120}))
...
extra = rng.restore(start.rank_state)
"""

from __future__ import annotations

import base64
import random
import sys
from typing import Any

from farside._values import decode_value, encode_value


def capture(**extra: object) -> bytes:
    """This rank's random state and ``extra`` (plain data, for instance the sampler's position).

    Raises:
        UnsupportedValueError: ``extra`` holds what is not plain data.
    """
    state: dict[str, Any] = {"python": random.getstate(), "extra": extra}
    torch = sys.modules.get("torch")
    if torch is not None:
        state["torch"] = _tensor_text(torch.get_rng_state())
        if torch.cuda.is_available():
            state["cuda"] = [_tensor_text(one) for one in torch.cuda.get_rng_state_all()]
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        name, keys, position, has_gauss, gauss = numpy.random.get_state()
        state["numpy"] = (name, [int(key) for key in keys], int(position), int(has_gauss), float(gauss))
    return encode_value("rank state", state)


def restore(blob: bytes) -> dict[str, Any]:
    """Put the random state back, and return what was given as ``extra``."""
    state = decode_value(blob)
    random.setstate(state["python"])
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in state:
        torch.set_rng_state(_tensor(torch, state["torch"]))
        if "cuda" in state:
            torch.cuda.set_rng_state_all([_tensor(torch, one) for one in state["cuda"]])
    numpy = sys.modules.get("numpy")
    if numpy is not None and "numpy" in state:
        numpy.random.set_state(state["numpy"])
    extra: dict[str, Any] = state["extra"]
    return extra


def _tensor_text(tensor: Any) -> str:  # noqa: ANN401 - a torch tensor, and this module does not import torch
    return base64.b64encode(bytes(tensor.tolist())).decode()


def _tensor(torch: Any, text: str) -> Any:  # noqa: ANN401 - see _tensor_text
    return torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8)
