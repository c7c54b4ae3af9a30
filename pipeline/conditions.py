"""What the figures of the same options depend on besides them."""

from typing import Any

import torch

from pipeline.runtime.device import Accelerator
from pipeline.runtime.environment import library_versions


def conditions(accelerator: Accelerator) -> dict[str, Any]:
    """What the figures of the same options depend on: two results under the same conditions are the same numbers."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "versions": library_versions(),
        "device": [device.type, name],
        "precision": accelerator.mixed_precision,
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
    }
