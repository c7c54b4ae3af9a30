"""Export networks as ONNX files and PyTorch state dicts, and measure ONNX files in onnxruntime."""

import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnxruntime
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.artifact import Identity
from pipeline.artifact.loading import load_parts
from pipeline.artifact.record import NetworkRecord
from pipeline.data.dataset import Images, Split
from pipeline.errors import OnnxError, OptionsError
from pipeline.models.outputs import select_output
from pipeline.onnx.file import OnnxExporter
from pipeline.onnx.session import open_session, run_session
from pipeline.onnx.weights import layer_onnx_bits
from pipeline.runtime.processes import ALONE, Processes
from pipeline.stages.evaluate import EVALUATION_BATCH, Evaluation, measure, measure_together
from reports.files import check_writable, write_atomically

logger = logging.getLogger(__name__)

_CHECKED_IMAGES = 4


def export_onnx(file: Path, out: Path, *, materialize: bool, allow_import: bool) -> str:
    """Write an artifact's network as an ONNX file, after onnx.checker and onnxruntime accepted it.

    Args:
        file: The artifact.
        out: The file to write, atomically.
        materialize: Write quantized layers as plain float32 weights.
        allow_import: Import the ``module:callable`` that the artifact names.

    Returns:
        A line for the user: the file, its size, and the largest difference of a logit from PyTorch's on random images.

    Raises:
        DataError: The artifact is missing or damaged.
        OptionsError: The network has no ONNX form, or its ``module:callable`` is not allowed.
        OSError: The file cannot be written.
    """
    network, record, identity = load_parts(file, allow_import=allow_import)
    _check_output(out)
    select_output(network, identity.output)
    try:
        content = OnnxExporter().file(record, network, identity, materialize=materialize)
        difference, largest = _difference(content, network, identity)
    except OnnxError as error:
        raise OptionsError(f"export: {error}; allowed here: --format torch") from error
    write_atomically(out, content)
    return f"{_line(out)}; largest difference of a logit from PyTorch: {difference:.1e} of {largest:.3g}"


def export_torch(file: Path, out: Path, *, allow_import: bool) -> str:
    """Write an artifact's dense network as a float32 state dict in a safetensors file.

    Args:
        file: The artifact.
        out: The file to write, atomically. The original architecture loads it with
            ``load_state_dict(safetensors.torch.load_file(out))``.
        allow_import: Import the ``module:callable`` that the artifact names.

    Returns:
        A line for the user: the file and its size.

    Raises:
        DataError: The artifact is missing or damaged.
        OptionsError: Its ``module:callable`` is not allowed.
        OSError: The file cannot be written.
    """
    network, _, _ = load_parts(file, allow_import=allow_import)
    _check_output(out)
    # Copies: safetensors refuses tensors that share memory, and a shared layer has two names in a state dict.
    state = network.state_dict()
    tensors = {name: each.detach().clone().contiguous() for name, each in state.items() if isinstance(each, Tensor)}
    if others := [name for name in state if name not in tensors]:
        logger.warning(
            "%s lacks the entry %r, which is no tensor: load it with load_state_dict(..., strict=False) into a network "
            "that has this state already",
            out,
            others[0],
        )
    write_atomically(out, safetensors.torch.save(tensors))
    return _line(out)


def _check_output(path: Path) -> None:
    if path.is_file() or not path.exists():  # a device is written in place
        check_writable(Path(os.path.realpath(path)).parent, f"export: {path}")


@torch.no_grad()
def _difference(content: bytes, network: nn.Module, identity: Identity) -> tuple[float, float]:
    """Return the largest difference of a logit between onnxruntime and PyTorch, and the largest logit."""
    shape = (_CHECKED_IMAGES, identity.channels, *identity.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    logits = network(images.clone())
    found = run_session(open_session(content), images)
    return float((found - logits).abs().max()), float(logits.abs().max())


def _line(path: Path) -> str:
    return f"{path}: {path.stat().st_size / 1e6:.3f} MB"


@dataclass(frozen=True)
class OnnxFigures:
    """The figures of a row's ONNX file; all None if there is no file.

    Attributes:
        top1: Top-1 in onnxruntime, in percent.
        differing_predictions: Number of test images with another prediction than PyTorch's.
        bits: Width of the stored integers: the smallest that ONNX has a type for.
        reason: Reason why the network has no file; None if none was wanted.
    """

    top1: float | None = None
    differing_predictions: int | None = None
    bits: int | None = None
    reason: str | None = None


def measured_onnx(
    exporter: OnnxExporter,
    record: NetworkRecord,
    network: nn.Module,
    identity: Identity,
    *,
    images: Split,
    measured: Evaluation,
    processes: Processes = ALONE,
) -> tuple[bytes | None, OnnxFigures]:
    """Write a row's ONNX file in memory and compare it with PyTorch. A network without ONNX form is no error.

    Args:
        exporter: Holds the traced graph of the architecture.
        record: The integers of the row.
        network: The network that ``build_network`` made of the record.
        identity: The description of the network in the file.
        images: Test images.
        measured: PyTorch's evaluation of these images.
        processes: The ranks that share the images.

    Returns:
        The content of the file, or None, and its figures.
    """
    try:
        content = exporter.file(record, network, identity)
        session = open_session(content)
        found = measure_together(lambda part: evaluate_onnx(session, part), images, processes)
    except OnnxError as error:
        return None, OnnxFigures(reason=str(error))
    differing = int((found.logits.argmax(1) != measured.logits.argmax(1)).sum())
    bits = max((layer_onnx_bits(layer) for layer in record.layers), default=None)
    return content, OnnxFigures(found.top1, differing, bits)


def evaluate_onnx(session: onnxruntime.InferenceSession, images: Images) -> Evaluation:
    """Run an ONNX network over images in their stored order, on the CPU.

    Raises:
        OnnxError: onnxruntime cannot compute the network.
    """
    return measure(partial(run_session, session), images.batches(EVALUATION_BATCH, device=torch.device("cpu")))
