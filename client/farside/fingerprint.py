"""The environment's fingerprint: the hardware, versions and switches that a bit-identical resume needs to be equal."""

from __future__ import annotations

import functools
import os
import platform
import sys
from pathlib import Path


def environment(world_size: int) -> dict[str, str]:
    """The environment fingerprint of this process.

    Never imports torch: what was not imported by the training script cannot influence it.

    Args:
        world_size: how many ranks train together.
    """
    found = {
        "world_size": str(world_size),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS", ""),
    }
    return found | _torch_part()


def _torch_part() -> dict[str, str]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    part = {
        "torch": str(torch.__version__),
        "torch_threads": str(torch.get_num_threads()),
        "torch_cpu_capability": str(torch.backends.cpu.get_cpu_capability()),
        "torch_deterministic": str(torch.are_deterministic_algorithms_enabled()),
        "cudnn_deterministic": str(torch.backends.cudnn.deterministic),
        "cudnn_benchmark": str(torch.backends.cudnn.benchmark),
        "matmul_tf32": str(torch.backends.cuda.matmul.allow_tf32),
        "gpu": "none",
    }
    if torch.cuda.is_available():
        part["gpu"] = str(torch.cuda.get_device_name())
        part["cuda"] = str(torch.version.cuda)
        part["cudnn"] = str(torch.backends.cudnn.version())
    return part


@functools.cache
def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
