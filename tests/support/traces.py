"""Traced graphs that the runs of one test process share: to trace one takes a third of a small run."""

from collections.abc import Callable, Hashable

from torch import nn

from pipeline.artifact.record import stored_tensors
from pipeline.onnx.trace import TracedNetwork, trace

_PLAIN = ("torch.nn.modules.", "pipeline.models.cifar_resnet")

Trace = Callable[..., TracedNetwork]


def shared_trace() -> Trace:
    """Return ``pipeline.onnx.trace.trace``, which traces networks of one structure once.

    A graph holds no values. Networks with modules of a user's own are traced each time: the modules' settings may be
    missing in their ``repr``.
    """
    kept: dict[Hashable, TracedNetwork] = {}

    def traced(model: nn.Module, image_size: tuple[int, int], channels: int = 3) -> TracedNetwork:
        if not all(type(module).__module__.startswith(_PLAIN) for module in model.modules()):
            return trace(model, image_size, channels)
        shapes = tuple((name, tensor.shape, tensor.dtype) for name, tensor in stored_tensors(model))
        key = (repr(model), shapes, tuple(image_size), channels)
        if key not in kept:
            kept[key] = trace(model, image_size, channels)
        return kept[key]

    return traced
