"""The stages of one network: approximate and fine-tune once, then quantize, write and measure for each width."""

import copy
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from basis.activations import fit_activations, output_errors
from basis.swap import swap_convolutions
from pipeline.acceleration import Accelerator
from pipeline.artifact import Identity, load, write_artifact
from pipeline.calibration import round_layers
from pipeline.config import Config
from pipeline.data.dataset import Dataset
from pipeline.errors import DataError
from pipeline.evaluation import EVALUATION_BATCH, Evaluation, evaluate
from pipeline.network_record import build_network, record_network
from pipeline.onnx.exporter import OnnxExporter, OnnxFigures
from pipeline.plan import LayerPlan, orders_of, plan_layers
from pipeline.progress import Progress
from pipeline.quantization import attach_fake_quantizers, quantize_network
from pipeline.training import Schedule, train
from quant.backends import Backend
from quant.formats import IntFormat


@dataclass(frozen=True)
class Bench:
    """What the stages of a run share: the uncompressed network, the data and where to compute.

    Attributes:
        baseline: The uncompressed network; no stage changes it.
        top1: The baseline's Top-1 on the test images, in percent.
        data: Training images for every choice, test images for the figures.
        calibration: Training images without labels, (N, 3, H, W), that fit and rounding look at.
        accelerator: Device and precision.
        seed: Orders of images and augmentation follow from it.
        progress: Where stages are reported.
    """

    baseline: nn.Module
    top1: float
    data: Dataset
    calibration: Tensor
    accelerator: Accelerator
    seed: int
    progress: Progress

    def copy_of_baseline(self) -> nn.Module:
        """A network of the same architecture and weights that a stage may change."""
        return copy.deepcopy(self.baseline)

    @cached_property
    def onnx(self) -> OnnxExporter:
        """What writes the rows' ONNX files; they share one graph."""
        return OnnxExporter()

    def top1_of(self, model: nn.Module) -> float:
        """Top-1 on the test images, in percent."""
        return evaluate(model, self.data.test, device=self.accelerator.device).top1


@dataclass(frozen=True)
class Approximation:
    """A network after approximation and fine-tuning.

    Attributes:
        model: The network.
        layers: What was planned for each layer.
        top1_pre: Top-1 before fine-tuning, in percent; None for the uncompressed row, which nothing approximates and
            which needs no fine-tuning.
        top1_post: Top-1 after it.
        fit_errors: Layer name -> relative output error of the fit.
    """

    model: nn.Module
    layers: list[LayerPlan]
    top1_pre: float | None
    top1_post: float
    fit_errors: dict[str, float]


@dataclass(frozen=True)
class Quantized:
    """One written artifact: its Top-1 (percent), digest, size in bytes, and how exactly it reloads.

    ``rounding_errors`` has the relative output error of each layer's rounding, before any training through it, and
    ``onnx`` the figures of the ONNX file beside the artifact.
    """

    top1: float
    sha256: str
    size: int
    reloaded_logits_max_abs_diff: float
    rounding_errors: dict[str, float]
    onnx: OnnxFigures


def approximate(
    bench: Bench, config: Config, basis: str, fit: str, schedule: Schedule, *, distill: bool
) -> Approximation:
    """Swap the planned convolutions for series, fit them, measure, fine-tune, measure again.

    Args:
        bench: The run's network, data and device.
        config: Orders per stage, or ``dense``.
        basis: A name in ``basis.series.BASES``.
        fit: ``activations`` reproduces the layers' outputs on the calibration images, ``weights`` the filters.
        schedule: Of fine-tuning; with 0 epochs the network stays as it was fitted.
        distill: Whether the uncompressed network teaches.

    Raises:
        CompressionError: The config does not fit the network, or fine-tuning diverged.
    """
    model = bench.copy_of_baseline()
    layers = plan_layers(model, config)
    if config.kind == "dense":
        return Approximation(model, layers, None, bench.top1, {})
    model = swap_convolutions(model, orders_of(layers), basis)
    visit = fit_activations if fit == "activations" else output_errors
    fit_errors = visit(model, bench.baseline, bench.calibration, seed=bench.seed)
    top1_pre = bench.top1_of(model)
    if schedule.epochs == 0:
        return Approximation(model, layers, top1_pre, top1_pre, fit_errors)
    _train(bench, model, schedule, distill=distill, title=f"{basis} {config.text}: fine-tuning")
    return Approximation(model, layers, top1_pre, bench.top1_of(model), fit_errors)


def _train(bench: Bench, model: nn.Module, schedule: Schedule, *, distill: bool, title: str) -> None:
    train(
        model,
        bench.data.train,
        schedule,
        accelerator=bench.accelerator,
        seed=bench.seed,
        teacher=bench.baseline if distill else None,
        progress=bench.progress,
        title=title,
    )


def quantize(
    bench: Bench,
    approximation: Approximation,
    bits: int,
    backend: Backend,
    path: Path,
    identity: Identity,
    *,
    rounding: str,
    schedule: Schedule,
    distill: bool,
) -> Quantized:
    """Quantize a network, write its artifact and its ONNX file, and measure the network that the artifact holds.

    Args:
        bench: The run's network, data and device.
        approximation: The float network; it is left as it is.
        bits: Width of the stored integers.
        backend: Brevitas or torch.ao.
        path: Where the artifact is written; the ONNX file is beside it.
        identity: What the artifact says of the network.
        rounding: ``gptq`` or ``nearest``.
        schedule: Of quantization-aware training, which starts from the rounded values.
        distill: Whether the uncompressed network teaches in it.

    Raises:
        DataError: The written file does not give back the logits that were measured.
        OSError: The artifact cannot be written.
    """
    format, model = IntFormat(bits), copy.deepcopy(approximation.model)
    start = round_layers(model, bench.calibration, format, backend, rounding=rounding, seed=bench.seed)
    if schedule.epochs:
        attach_fake_quantizers(model, format, backend, start.layers)
        _train(bench, model, schedule, distill=distill, title=f"{path.stem}: quantization-aware training")
    rounded = {} if schedule.epochs else start.layers
    record = record_network(model, quantize_network(model, format, backend, rounded))
    network = build_network(record, bench.copy_of_baseline())
    measured = evaluate(network, bench.data.test, device=bench.accelerator.device)
    write_artifact(record, identity, path)
    difference = _reload_difference(bench, path, measured)
    if difference != 0.0:
        raise DataError(f"artifact: {path} reloads with logits {difference:g} from the measured ones; allowed: 0")
    portable = bench.onnx.write_and_measure(
        record, network, identity, path.with_suffix(".onnx"), images=bench.data.test, measured=measured
    )
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Quantized(measured.top1, digest, len(content), difference, start.errors, portable)


def _reload_difference(bench: Bench, path: Path, measured: Evaluation) -> float:
    """The largest difference of a logit, over the first test images, in the batches that were measured."""
    images = bench.data.test.head(min(2 * EVALUATION_BATCH, len(bench.data.test)))
    again = evaluate(load(path, allow_import=True), images, device=bench.accelerator.device)
    return float((again.logits - measured.logits[: len(images)]).abs().max())


def dataset_identity(model_name: str, data: Dataset) -> Identity:
    """What the artifacts of a run say of their network."""
    mean, std = data.normalization.mean, data.normalization.std
    return Identity(model_name, data.classes, data.class_names, mean, std, data.image_size)


def write_baseline(bench: Bench, path: Path, identity: Identity) -> int:
    """Write the uncompressed network in float32.

    Returns:
        The file's size in bytes: the baseline that the compressed sizes stand beside.
    """
    write_artifact(record_network(bench.baseline, {}), identity, path)
    return path.stat().st_size
