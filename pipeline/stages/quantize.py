"""Round the stored values, train through the rounding, make the files, and measure the network of the artifact."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from torch import Tensor, nn

from basis.copying import copy_network
from basis.layers import stored_layers
from basis.progress import reported_to
from basis.shard import CalibrationShard
from basis.swap import materialize_full
from pipeline.artifact import plan_stream, serialize
from pipeline.artifact.record import LayerRecord, NetworkRecord, build_network, record_network
from pipeline.artifact.summary import account
from pipeline.stages.baseline import Baseline
from pipeline.stages.context import RunContext, calibration_images, calibration_shard, network_identity
from pipeline.stages.evaluate import Measurement, evaluate_together, images_to_reload
from pipeline.stages.export import OnnxFigures, measured_onnx
from pipeline.stages.keys import WidthKeys
from pipeline.stages.timing import InferenceTimes, inference_times
from pipeline.stages.train import TrainingSummary, replay_curve, train_once
from pipeline.store.entry import Entry, as_bytes, as_tensor
from quant.backends import Backend, get_backend
from quant.calibration import Rounding, round_layers
from quant.formats import IntFormat
from quant.network import attach_fake_quantizers, quantize_network
from quant.schemes import Format


@dataclass(frozen=True)
class QuantizedNetwork:
    """A quantized network: its files and figures.

    Attributes:
        artifact: Content of the artifact.
        portable: Content of the ONNX file, or None.
        measured: Figures of the network in the artifact, on all test images.
        logits: Its outputs on the first ``images_to_reload`` test images, float32, (images, classes).
        rounding_errors: Layer name -> relative output error of rounding, before training through it.
        training: Quantization-aware training; for a target, training through the rounding.
        onnx: Figures of the ONNX file.
        bits_per_value: Bits that the file spends on a value of the layers, without scales and table.
        terms: Layer name -> kept terms of its series, see ``kept_terms``; layers without series are left out.
        target_met: False if the target could not be met; True for a fixed width.
        inference: Times for one image.
        layer_bytes: Layer name -> bytes of its integers and scales in the artifact.
        file_bytes: Kind of content -> bytes in the artifact.
    """

    artifact: bytes
    portable: bytes | None
    measured: Measurement
    logits: Tensor
    rounding_errors: dict[str, float]
    training: TrainingSummary
    onnx: OnnxFigures
    bits_per_value: float
    terms: dict[str, tuple[int, int, int]]
    target_met: bool
    inference: InferenceTimes
    layer_bytes: dict[str, int]
    file_bytes: dict[str, int]

    @property
    def top1(self) -> float:
        """Top-1 of the network in the artifact, in percent."""
        return self.measured.top1

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
    return quantized_network(entry)


def quantized_network(entry: Entry) -> QuantizedNetwork:
    """Return the network of an entry of ``measured_entry``."""
    portable = entry.tensors.get("portable")
    return QuantizedNetwork(
        as_bytes(entry.tensors["artifact"]),
        None if portable is None else as_bytes(portable),
        Measurement.of(entry),
        entry.tensors["logits"],
        entry.metadata["rounding_errors"],
        TrainingSummary(**entry.metadata["training"]),
        OnnxFigures(**entry.metadata["onnx"]),
        entry.metadata["bits_per_value"],
        {name: (rows, columns, count) for name, (rows, columns, count) in entry.metadata["terms"].items()},
        entry.metadata["target_met"],
        InferenceTimes(**entry.metadata["inference"]),
        entry.metadata["layer_bytes"],
        entry.metadata["file_bytes"],
    )


def _quantize(context: RunContext, baseline: Baseline, original: nn.Module, keys: WidthKeys) -> Entry:
    options = context.options
    training, backend = TrainingSummary(), get_backend(options.backend)
    images, shard = calibration_images(context), calibration_shard(context)
    layers = len(stored_layers(original))
    with context.progress.track(f"{keys.name}: rounding", layers) as advance, reported_to(advance):
        model, found = rounded_network(
            original, images, keys.format, backend, rounding=keys.rounding, seed=options.seed, shard=shard
        )
    rounded = found.layers
    if keys.training is not None:
        attach_fake_quantizers(model, keys.format, backend, rounded)
        training, rounded = train_once(context, model, keys.training), {}
    record = record_network(model, quantize_network(model, keys.format, backend, rounded))
    return measured_entry(context, baseline, record, found.errors, training)


def rounded_network(
    original: nn.Module,
    images: Tensor,
    format: Format,
    backend: Backend,
    *,
    rounding: str,
    seed: int,
    shard: CalibrationShard | None = None,
) -> tuple[nn.Module, Rounding]:
    """Round the layers of a network to a number format.

    Args:
        original: The float network; it is not changed.
        images: See ``quant.calibration.round_layers``, like the arguments after it.
        format: The number format.
        backend: Its quantizers round.
        rounding: ``gptq`` or ``nearest``.
        seed: Seed of the sampled positions.
        shard: None if the rank holds all images.

    Returns:
        A copy of the network whose layers have the form that is stored, and their rounded values.
    """
    model = copy_network(original)
    if isinstance(format, IntFormat):
        model = materialize_full(model)  # docs/method.md: the kernel has the smaller rounding error, at equal bits
    return model, round_layers(model, images, format, backend, rounding=rounding, seed=seed, shard=shard)


def measured_entry(
    context: RunContext,
    baseline: Baseline,
    record: NetworkRecord,
    rounding_errors: Mapping[str, float],
    training: TrainingSummary,
    *,
    target_met: bool = True,
) -> Entry:
    """Make the files of a network, and measure the network of the artifact on the test images.

    Args:
        context: The run.
        baseline: The uncompressed network.
        record: The compressed network.
        rounding_errors: See ``QuantizedNetwork``, like the arguments after it.
        training: See ``QuantizedNetwork``.
        target_met: See ``QuantizedNetwork``.

    Returns:
        The entry of the store, for ``quantized_network``.
    """
    identity = network_identity(context)
    network = build_network(record, copy_network(baseline.model))
    measured = evaluate_together(network, context.data.test, context.processes)
    portable, figures = None, OnnxFigures()
    if context.options.onnx:
        portable, figures = measured_onnx(
            baseline.exporter,
            record,
            network,
            identity,
            images=context.data.test,
            measured=measured,
            processes=context.processes,
        )
    plan = plan_stream(record)
    artifact = serialize(record, identity, plan)
    layers, kinds = account(record, artifact, plan)
    values = sum(layer.values.integers.numel() for layer in record.layers)
    tensors = {
        "artifact": as_tensor(artifact),
        "logits": measured.logits[: images_to_reload(context.data)].clone(),
        **measured.predictions.tensors(),
    }
    if portable is not None:
        tensors["portable"] = as_tensor(portable)
    metadata = {
        "top1": measured.top1,
        "top5": measured.top5,
        "inference": asdict(inference_times(baseline.model, network, portable, _one_image(context))),
        "layer_bytes": {name: round((bits.integers + bits.scales) / 8) for name, bits in layers.items()},
        "file_bytes": kinds,
        "rounding_errors": dict(rounding_errors),
        "training": asdict(training),
        "onnx": asdict(figures),
        "bits_per_value": sum(bits.integers for bits in layers.values()) / values if values else 0.0,
        "terms": {layer.name: kept_terms(layer) for layer in record.layers if layer.order is not None},
        "target_met": target_met,
    }
    return Entry(tensors, metadata)


def _one_image(context: RunContext) -> Tensor:
    image, _ = next(iter(context.data.test.head(1).batches(1, device=context.device)))
    return image


def kept_terms(layer: LayerRecord) -> tuple[int, int, int]:
    """Return the kept terms of a series: the terms with a coefficient other than zero.

    Returns:
        Rows and columns of the smallest order that contains the kept terms, and their number; zeros if none is kept.
    """
    kept = (layer.values.integers != 0).any(0).any(0)
    rows, columns = ((side.nonzero().max() + 1 if side.any() else 0) for side in (kept.any(1), kept.any(0)))
    return int(rows), int(columns), int(kept.sum())
