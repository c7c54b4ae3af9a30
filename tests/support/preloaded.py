"""Prepare the process from which others are forked: imports, and tables of the exporter.

The fork server imports this module.
"""

import gc
from functools import cache
from importlib import import_module

_LIBRARIES = (
    *("pipeline.runner", "pipeline.cli.run", "matplotlib.figure", "matplotlib.backends.backend_agg", "onnxscript"),
    *("brevitas", "torchvision.models", "torch.export", "torch._dynamo", "torch.onnx._internal.exporter._core"),
)

gc.disable()  # a million objects that live as long as the process
for _name in _LIBRARIES:
    import_module(_name)

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.onnx._internal.exporter._registration import ONNXRegistry  # noqa: E402

from pipeline.onnx.trace import trace  # noqa: E402

torch.set_num_threads(1)
# The exporter collects its operators anew for each network, which takes longer than to export it.
ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign]
trace(nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten()), (2, 2))
gc.freeze()  # a run looks for garbage after each training
gc.enable()
