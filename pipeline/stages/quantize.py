"""Round the stored values, train through the rounding, make both files, and measure the network of the artifact."""

import copy
import hashlib
from dataclasses import asdict, dataclass

from torch import Tensor, nn

from pipeline.artifact import serialize
from pipeline.artifact.record import build_network, record_network
from pipeline.stages.baseline import Baseline
from pipeline.stages.context import RunContext, calibration_images, calibration_shard, network_identity
from pipeline.stages.evaluate import evaluate_together, images_to_reload
from pipeline.stages.export import OnnxFigures, measured_onnx
from pipeline.stages.keys import WidthKeys
from pipeline.stages.train import TrainingSummary, replay_curve, train_once
from pipeline.store.entry import Entry, as_bytes, as_tensor
from quant.backends import get_backend
from quant.calibration import round_layers
from quant.network import attach_fake_quantizers, quantize_network


@dataclass(frozen=True)
class QuantizedNetwork:
    """A quantized network: its files and figures.

    Attributes:
        artifact: Content of the artifact.
        portable: Content of the ONNX file, or None.
        top1: Top-1 of the network in the artifact, in percent.
        logits: Its outputs on the first ``images_to_reload`` test images, float32, (images, classes).
        rounding_errors: Layer name -> relative output error of rounding, before training through it.
        training: Quantization-aware training.
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
        """SHA-256 of the artifact, in hex."""
        return hashlib.sha256(self.artifact).hexdigest()


def quantize(context: RunContext, baseline: Baseline, model: nn.Module, keys: WidthKeys) -> QuantizedNetwork:
    """Quantize a network, or read the result from the store.

    Args:
        context: The run.
        baseline: The uncompressed network.
        model: The float network; it is not changed.
        keys: The stages of the width. Training through the rounding starts from the rounded values.
    """
    entry, cached = context.store.once(keys.artifact, lambda: _quantize(context, baseline, model, keys))
    if cached and keys.training is not None:
        replay_curve(context, keys.training)
    portable = entry.tensors.get("portable")
    return QuantizedNetwork(
        as_bytes(entry.tensors["artifact"]),
        None if portable is None else as_bytes(portable),
        entry.metadata["top1"],
        entry.tensors["logits"],
        entry.metadata["rounding_errors"],
        TrainingSummary(**entry.metadata["training"]),
        OnnxFigures(**entry.metadata["onnx"]),
    )


def _quantize(context: RunContext, baseline: Baseline, original: nn.Module, keys: WidthKeys) -> Entry:
    options, identity = context.options, network_identity(context)
    model, training, backend = copy.deepcopy(original), TrainingSummary(), get_backend(options.backend)
    images, shard = calibration_images(context), calibration_shard(context)
    found = round_layers(model, images, keys.format, backend, rounding=options.rounding, seed=options.seed, shard=shard)
    rounded = found.layers
    if keys.training is not None:
        attach_fake_quantizers(model, keys.format, backend, rounded)
        training, rounded = train_once(context, model, keys.training), {}
    record = record_network(model, quantize_network(model, keys.format, backend, rounded))
    network = build_network(record, copy.deepcopy(baseline.model))
    measured = evaluate_together(network, context.data.test, context.processes)
    portable, figures = measured_onnx(
        baseline.exporter,
        record,
        network,
        identity,
        images=context.data.test,
        measured=measured,
        processes=context.processes,
    )
    tensors = {
        "artifact": as_tensor(serialize(record, identity)),
        "logits": measured.logits[: images_to_reload(context.data)].clone(),
    }
    if portable is not None:
        tensors["portable"] = as_tensor(portable)
    metadata = {"top1": measured.top1, "rounding_errors": found.errors}
    return Entry(tensors, metadata | {"training": asdict(training), "onnx": asdict(figures)})
