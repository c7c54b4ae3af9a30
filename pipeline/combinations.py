"""The stages of one network: approximate and fine-tune once, then quantize, write and measure for each width."""

import copy
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from basis.activations import fit_activations, output_errors
from basis.portion import Portion
from basis.swap import swap_convolutions
from pipeline.acceleration import Accelerator, processes_of
from pipeline.artifact import Identity, write_artifact
from pipeline.calibration import round_layers
from pipeline.data.dataset import Dataset
from pipeline.evaluation import Evaluation, evaluate_together
from pipeline.grid import Variant
from pipeline.network_record import build_network, record_network
from pipeline.onnx.exporter import OnnxExporter, OnnxFigures
from pipeline.plan import LayerPlan, orders_of, plan_layers
from pipeline.processes import Processes
from pipeline.progress import Progress
from pipeline.quantization import attach_fake_quantizers, quantize_network
from pipeline.reload import Measured, images_to_reload
from pipeline.stored_training import Course, train_once
from pipeline.teacher import Teacher
from pipeline.training import Schedule
from quant.backends import Backend
from quant.schemes import Format


@dataclass(frozen=True)
class Bench:
    """What the stages of a run share: the uncompressed network, the data and where to compute.

    Attributes:
        baseline: The uncompressed network; no stage changes it.
        top1: The baseline's Top-1 on the test images, in percent.
        data: Training images for every choice, test images for the figures.
        calibration: This process' share of the training images, without labels, (N, 3, H, W), that fit and rounding
            look at.
        portion: Which of all calibration images these are; None: all.
        accelerator: Device and precision.
        seed: Orders of images and augmentation follow from it.
        progress: Where stages are reported.
        teacher: The uncompressed network in training, or None where only the labels teach.
        model_name: The architecture's name.
        fresh: Train even where the result is stored.
        measured: SHA-256 of every artifact written -> what it gave, for the proof that it reloads.
        onnx: Writes the rows' ONNX files, which share one graph.
    """

    baseline: nn.Module
    top1: float
    data: Dataset
    calibration: Tensor
    portion: Portion | None
    accelerator: Accelerator
    seed: int
    progress: Progress
    teacher: Teacher | None
    model_name: str
    fresh: bool
    measured: dict[str, Measured] = field(default_factory=dict)
    onnx: OnnxExporter = field(default_factory=OnnxExporter)

    def copy_of_baseline(self) -> nn.Module:
        """A network of the same architecture and weights that a stage may change."""
        return copy.deepcopy(self.baseline)

    @property
    def processes(self) -> Processes:
        """Those that share the run."""
        return processes_of(self.accelerator)

    def evaluation_of(self, model: nn.Module) -> Evaluation:
        """What a network says of the test images, which the processes share."""
        return evaluate_together(model, self.data.test, self.processes)

    def top1_of(self, model: nn.Module) -> float:
        """Top-1 on the test images, in percent."""
        return self.evaluation_of(model).top1


@dataclass(frozen=True)
class Approximation:
    """A network after approximation and fine-tuning.

    Attributes:
        model: The network.
        layers: What was planned for each layer.
        epochs: Epochs of fine-tuning that it has seen.
        top1_pre: Top-1 before fine-tuning, in percent; None for the dense network, which nothing approximates.
        top1_post: Top-1 after it.
        fit_errors: Layer name -> relative output error of the fit.
        seconds: What fine-tuning took, when it was done.
    """

    model: nn.Module
    layers: list[LayerPlan]
    epochs: int
    top1_pre: float | None
    top1_post: float
    fit_errors: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Quantized:
    """One written artifact: its Top-1 (percent), digest and size in bytes.

    ``rounding_errors`` has the relative output error of each layer's rounding, before any training through it;
    ``seconds`` is what that training took, when it was done; ``onnx`` has the figures of the file beside the artifact.
    """

    top1: float
    sha256: str
    size: int
    rounding_errors: dict[str, float]
    seconds: float
    onnx: OnnxFigures


def approximate(bench: Bench, variant: Variant, fit: str, schedule: Schedule) -> Approximation:
    """Swap the planned convolutions for series, fit them, measure, fine-tune, measure again.

    Args:
        bench: The run's network, data and device.
        variant: Its config and basis.
        fit: ``activations`` reproduces the layers' outputs on the calibration images, ``weights`` the filters.
        schedule: Of fine-tuning; with 0 epochs the network stays as it was fitted.

    Raises:
        CompressionError: The config does not fit the network, or fine-tuning diverged.
    """
    model = bench.copy_of_baseline()
    layers = plan_layers(model, variant.config)
    fit_errors: dict[str, float] = {}
    top1_pre, top1 = None, bench.top1
    if variant.config.kind != "dense":
        model = swap_convolutions(model, orders_of(layers), variant.bases[0])
        visit = fit_activations if fit == "activations" else output_errors
        fit_errors = visit(model, bench.baseline, bench.calibration, seed=bench.seed, portion=bench.portion)
        top1_pre = top1 = bench.top1_of(model)
    seconds = _train(bench, model, schedule, 0, variant.name, f"{variant.name}: fine-tuning")
    if schedule.epochs:
        top1 = bench.top1_of(model)
    return Approximation(model, layers, schedule.epochs, top1_pre, top1, fit_errors, seconds)


def _train(bench: Bench, model: nn.Module, schedule: Schedule, first_epoch: int, structure: str, title: str) -> float:
    course = Course(bench.data, schedule, bench.accelerator, bench.seed, bench.teacher, first_epoch)
    return train_once(
        model,
        course,
        structure=f"{bench.model_name} {structure}",
        fresh=bench.fresh,
        progress=bench.progress,
        title=title,
    )


def quantize(
    bench: Bench,
    approximation: Approximation,
    format: Format,
    backend: Backend,
    path: Path,
    identity: Identity,
    *,
    rounding: str,
    schedule: Schedule,
) -> Quantized:
    """Quantize a network, write its artifact and its ONNX file, and measure the network that the artifact holds.

    Args:
        bench: The run's network, data and device.
        approximation: The float network; it is left as it is.
        format: The number format of the stored values.
        backend: Brevitas or torch.ao.
        path: Where the artifact is written; the ONNX file is beside it.
        identity: What the artifact says of the network.
        rounding: ``gptq`` or ``nearest``.
        schedule: Of quantization-aware training, which starts from the rounded values.

    Raises:
        OSError: The artifact cannot be written.
    """
    model = copy.deepcopy(approximation.model)
    start = round_layers(
        model, bench.calibration, format, backend, rounding=rounding, seed=bench.seed, portion=bench.portion
    )
    seconds = 0.0
    if schedule.epochs:
        attach_fake_quantizers(model, format, backend, start.layers)
        structure = f"{path.stem} {format.scheme} {getattr(backend, '__name__', backend)}"
        title = f"{path.stem}: quantization-aware training"
        seconds = _train(bench, model, schedule, approximation.epochs, structure, title)
    rounded = {} if schedule.epochs else start.layers
    record = record_network(model, quantize_network(model, format, backend, rounded))
    network = build_network(record, bench.copy_of_baseline())
    measured = bench.evaluation_of(network)

    def write() -> bytes:
        write_artifact(record, identity, path)
        return path.read_bytes()

    content = bench.processes.on_main(write)
    portable = bench.onnx.write_and_measure(
        record,
        network,
        identity,
        path.with_suffix(".onnx"),
        images=bench.data.test,
        measured=measured,
        processes=bench.processes,
    )
    digest = hashlib.sha256(content).hexdigest()
    bench.measured[digest] = Measured(path, measured.logits[: images_to_reload(bench.data)].clone())
    return Quantized(measured.top1, digest, len(content), start.errors, seconds, portable)


def dataset_identity(model_name: str, data: Dataset) -> Identity:
    """What the artifacts of a run say of their network."""
    mean, std = data.normalization.mean, data.normalization.std
    return Identity(model_name, data.classes, data.class_names, mean, std, data.image_size)


def write_baseline(bench: Bench, path: Path, identity: Identity) -> int:
    """Write the uncompressed network in float32.

    Returns:
        The file's size in bytes: the baseline that the compressed sizes stand beside.
    """

    def write() -> int:
        write_artifact(record_network(bench.baseline, {}), identity, path)
        return path.stat().st_size

    return bench.processes.on_main(write)
