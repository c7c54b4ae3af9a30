"""Trace a network's graph with every stored tensor as an input, so that one graph serves all files of a run."""

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any, TextIO, cast

import onnx
import torch
from torch import Tensor, nn
from torch.func import functional_call

from basis.copying import copy_network
from basis.modes import evaluating
from pipeline.artifact.record import stored_tensors
from pipeline.errors import OnnxError
from pipeline.onnx.attention import FourAxes
from pipeline.runtime.turns import TURNS

OPSET = 21
"""Opset of a traced graph: the first with 4-bit integers."""

INPUT, OUTPUT = "input", "logits"
_EXPORTER_LOGGERS = ("torch.onnx", "torch.export", "torch.fx.experimental.symbolic_shapes", "onnxscript", "onnx_ir")


@dataclass(frozen=True)
class TracedNetwork:
    """A graph without values.

    Attributes:
        proto: Model with input ``input`` (batch, C, H, W), output ``logits`` (batch, classes), both float32, and one
            more input for every stored tensor.
        tensors: Name of a tensor's input -> name of the tensor in the network.
    """

    proto: onnx.ModelProto
    tensors: dict[str, str]


class _Functional(nn.Module):
    """The network as a function of its input and its tensors, which the exporter then cannot fold into constants."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = (model,)  # a tuple hides it: tensors of a submodule would become constants

    def forward(self, x: Tensor, tensors: dict[str, Tensor]) -> Tensor:
        with FourAxes():
            return cast(Tensor, functional_call(self._model[0], tensors, (x,)))


def trace(model: nn.Module, image_size: tuple[int, int], channels: int = 3) -> TracedNetwork:
    """Export a network's graph for batches of any size.

    The exporter uses ``torch.export``. Unlike the TorchScript exporter it is maintained, supports opsets above 20 and
    rejects a network whose graph depends on the batch size.

    Args:
        model: The network with dense convolutions; a copy of it is traced.
        image_size: Height and width of its images, in pixels.
        channels: Number of channels of its images, C.

    Raises:
        OnnxError: The network cannot be exported; the message ends with the exporter's reason.
    """
    model = evaluating(copy_network(model).cpu().to(memory_format=torch.contiguous_format))
    tensors = {name: tensor.detach() for name, tensor in stored_tensors(model)}
    # Two images, because torch.export treats a dimension of size 1 as a constant.
    example = torch.zeros(2, channels, *image_size)
    shapes = ({0: torch.export.Dim("batch")}, dict.fromkeys(tensors))
    try:
        with TURNS.exclusive(), torch.no_grad(), _exporter_silenced(), _without_fused_attention():
            program = _program(_Functional(model), (example, tensors), shapes)
            exported = torch.onnx.export(program, dynamo=True, opset_version=OPSET, optimize=True, verbose=False)
    except Exception as error:
        raise OnnxError(f"onnx: the network {type(model).__name__} has no ONNX form: {_first_line(error)}") from error
    assert exported is not None  # without a path the exporter returns the program
    return _assign_names(exported.model_proto, list(tensors))


def _program(network: nn.Module, inputs: tuple[Any, ...], shapes: Any) -> torch.export.ExportedProgram:
    """Return the graph of a network for any number of images.

    The network is run with a symbolic number of images. This fails where ``len(x)`` makes it a constant. TorchDynamo
    then reads the network's bytecode, in which the number stays symbolic. If that fails too, the first error is raised.
    """
    try:
        return torch.export.export(network, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        try:
            return torch.export.export(network, inputs, dynamic_shapes=shapes, strict=True)
        except Exception:
            raise error from error.__cause__


def _assign_names(proto: onnx.ModelProto, names: list[str]) -> TracedNetwork:
    """Name input and output, and assign the other inputs to the network's tensors by their order."""
    ends = {proto.graph.input[0].name: INPUT, proto.graph.output[0].name: OUTPUT}
    for values in (proto.graph.input, proto.graph.output):
        for value in values:
            value.name = ends.get(value.name, value.name)
    for node in proto.graph.node:
        node.input[:] = [ends.get(name, name) for name in node.input]
        node.output[:] = [ends.get(name, name) for name in node.output]
    inputs = [value.name for value in proto.graph.input[1:]]
    return TracedNetwork(proto, dict(zip(inputs, names, strict=True)))


class _OtherThreads:
    """A stream that drops what this thread writes: ``torch.export`` prints the graph of a network that it refuses."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Keep torch from its fused kernels of attention and transformer layers, which have no ONNX form."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _exporter_silenced() -> Iterator[None]:
    """Suppress warnings, log records and printed graphs of the exporter: its errors are raised."""
    loggers = [logging.getLogger(name) for name in _EXPORTER_LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(cast(TextIO, _OtherThreads(sys.stderr))):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    """Return the first line of the error at the root of the exporter's chain of errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
