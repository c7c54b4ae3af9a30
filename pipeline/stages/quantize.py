"""Round a network, write its artifact and ONNX file in memory, and measure the network that the artifact holds."""

import copy
import hashlib
from dataclasses import asdict, dataclass

from torch import Tensor, nn

from pipeline.artifact import serialize
from pipeline.artifact.record import build_network, record_network
from pipeline.stages.context import RunContext
from pipeline.stages.evaluate import images_to_reload
from pipeline.stages.export import OnnxFigures, measured_file
from pipeline.stages.keys import WidthKeys
from pipeline.stages.train import TrainingSummary
from pipeline.store.entry import Entry, as_bytes, as_tensor
from quant.backends import Backend, get_backend
from quant.calibration import round_layers
from quant.network import attach_fake_quantizers, quantize_network


@dataclass(frozen=True)
class QuantizedNetwork:
    """A network in few bits.

    Attributes:
        artifact: The file's content.
        portable: The ONNX file's content, or None.
        top1: Top-1 of the network that the artifact holds, in percent.
        logits: What it said of the first test images: see ``images_to_reload``.
        rounding_errors: Relative output error of each layer's rounding, before any training through it.
        training: That training.
        onnx: Figures of the ONNX file.
    """

    artifact: bytes
    portable: bytes | None
    top1: float
    logits: Tensor
    rounding_errors: dict[str, float]
    training: TrainingSummary
    onnx: OnnxFigures

    @property
    def sha256(self) -> str:
        """Of the artifact, in hex."""
        return hashlib.sha256(self.artifact).hexdigest()


def quantize(context: RunContext, model: nn.Module, backend: str, rounding: str, steps: WidthKeys) -> QuantizedNetwork:
    """Quantize a network, make its artifact and its ONNX file, and measure the network that the artifact holds.

    Args:
        context: The run's network, data and device.
        model: The float network; it is left as it is.
        backend: ``brevitas`` or ``torch.ao``.
        rounding: ``gptq`` or ``nearest``.
        steps: The width's stages; training through the rounding starts from the rounded values.
    """
    entry = context.store.once(steps.artifact, lambda: _quantize(context, model, get_backend(backend), rounding, steps))
    if steps.training is not None and context.store.stages[-1].cached:
        context.retell(steps.training)
    files = {part: as_bytes(tensor) for part, tensor in entry.tensors.items() if part != "logits"}
    facts = {
        **entry.metadata,
        "onnx": OnnxFigures(**entry.metadata["onnx"]),
        "training": TrainingSummary(**entry.metadata["training"]),
    }
    return QuantizedNetwork(files["artifact"], files.get("portable"), logits=entry.tensors["logits"], **facts)


def _quantize(context: RunContext, original: nn.Module, backend: Backend, rounding: str, steps: WidthKeys) -> Entry:
    model, training = copy.deepcopy(original), TrainingSummary()
    images = context.calibration_images()
    found = round_layers(
        model, images, steps.format, backend, rounding=rounding, seed=context.seed, shard=context.portion
    )
    rounded = found.layers
    if steps.training is not None:
        attach_fake_quantizers(model, steps.format, backend, rounded)
        training, rounded = context.train_once(model, steps.course, steps.training), {}
    record = record_network(model, quantize_network(model, steps.format, backend, rounded))
    network = build_network(record, context.copy_of_baseline())
    measured = context.evaluation_of(network)
    portable, figures = measured_file(
        context.onnx,
        record,
        network,
        context.identity,
        images=context.data.test,
        measured=measured,
        processes=context.processes,
    )
    tensors = {
        "artifact": as_tensor(serialize(record, context.identity)),
        "logits": measured.logits[: images_to_reload(context.data)].clone(),
    }
    if portable is not None:
        tensors["portable"] = as_tensor(portable)
    facts = {"top1": measured.top1, "rounding_errors": found.errors}
    return Entry(tensors, facts | {"training": asdict(training), "onnx": asdict(figures)})
