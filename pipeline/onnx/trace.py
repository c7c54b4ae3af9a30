"""The graph of any network, with every stored tensor as an input: the same for all of a run's files."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import onnx
import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.artifact.record import stored_tensors
from pipeline.errors import OnnxError
from pipeline.runtime.turns import TURNS

OPSET = 21
"""The first with 4-bit integers."""

INPUT, OUTPUT = "input", "logits"
_CHATTY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


@dataclass(frozen=True)
class TracedNetwork:
    """A graph without values.

    Attributes:
        proto: ``input`` (batch, 3, H, W) to ``logits`` (batch, classes); every stored tensor is a further input.
        tensors: Name of such an input -> name of the tensor in the network.
    """

    proto: onnx.ModelProto
    tensors: dict[str, str]


class _OfTensors(nn.Module):
    """The network as a function of its input and its tensors, so that no exporter can fold them into others."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple it is no submodule, whose tensors would be constants

    def forward(self, x: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        return cast(Tensor, functional_call(self._model[0], tensors, (x,)))


def trace(model: nn.Module, image_size: tuple[int, int]) -> TracedNetwork:
    """Export a network's graph for batches of any size.

    The exporter is the one of ``torch.export``: unlike the TorchScript one it is maintained, knows opsets above 20 and
    refuses a network whose graph depends on the batch.

    Args:
        model: The network, with ordinary convolutions; it is left as it is.
        image_size: Height and width of its images, in pixels.

    Raises:
        OnnxError: The network cannot be exported.
    """
    model = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format).eval()
    tensors = {name: tensor.detach() for name, tensor in stored_tensors(model)}
    # Two images: a batch of one would be taken for a constant.
    example = torch.zeros(2, 3, *image_size)
    shapes = ({0: torch.export.Dim("batch")}, dict.fromkeys(tensors))
    try:
        with TURNS.exclusive(), torch.no_grad(), _quiet():
            program = torch.export.export(_OfTensors(model), (example, tensors), dynamic_shapes=shapes, strict=False)
            exported = torch.onnx.export(program, dynamo=True, opset_version=OPSET, optimize=True, verbose=False)
    except Exception as error:
        raise OnnxError(f"onnx: the network {type(model).__name__} has no ONNX form: {_first_line(error)}") from error
    assert exported is not None  # without a path the exporter returns the program
    return _named(exported.model_proto, list(tensors))


def _named(proto: onnx.ModelProto, names: list[str]) -> TracedNetwork:
    """The graph with its two ends named, and its other inputs tied to the network's tensors by their order."""
    ends = {proto.graph.input[0].name: INPUT, proto.graph.output[0].name: OUTPUT}
    for values in (proto.graph.input, proto.graph.output):
        for value in values:
            value.name = ends.get(value.name, value.name)
    for node in proto.graph.node:
        node.input[:] = [ends.get(name, name) for name in node.input]
        node.output[:] = [ends.get(name, name) for name in node.output]
    inputs = [value.name for value in proto.graph.input[1:]]
    return TracedNetwork(proto, dict(zip(inputs, names, strict=True)))


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's own remarks are of no use to a caller, who gets an error or a file."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    """The sentence at the root of an exporter's chain of errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
