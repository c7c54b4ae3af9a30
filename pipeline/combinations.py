"""The stages of one network: approximate and fine-tune once, then quantize and measure for each width."""

import copy
import hashlib
from dataclasses import asdict, dataclass

from torch import Tensor, nn

from basis.activations import fit_activations, output_errors
from basis.swap import swap_convolutions
from pipeline.artifact import serialize
from pipeline.artifact.record import build_network, record_network
from pipeline.bench import Bench
from pipeline.models.layer_orders import LayerPlan, orders_of, plan_layers
from pipeline.onnx.exporter import OnnxFigures
from pipeline.options.grid import Variant
from pipeline.reload import images_to_reload
from pipeline.steps import VariantSteps, WidthSteps
from pipeline.store.entry import Entry, as_bytes, as_tensor, state_of
from pipeline.store.store import Step
from pipeline.stored_training import Training
from quant.backends import Backend, get_backend
from quant.calibration import round_layers
from quant.network import attach_fake_quantizers, quantize_network


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
        training: Fine-tuning.
    """

    model: nn.Module
    layers: list[LayerPlan]
    epochs: int
    top1_pre: float | None
    top1_post: float
    fit_errors: dict[str, float]
    training: Training


@dataclass(frozen=True)
class Quantized:
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
    training: Training
    onnx: OnnxFigures

    @property
    def sha256(self) -> str:
        """Of the artifact, in hex."""
        return hashlib.sha256(self.artifact).hexdigest()


def approximate(bench: Bench, variant: Variant, fit: str, steps: VariantSteps) -> Approximation:
    """Swap the planned convolutions for series, fit them, measure, fine-tune, measure again.

    Args:
        bench: The run's network, data and device.
        variant: Its config and basis.
        fit: ``activations`` reproduces the layers' outputs on the calibration images, ``weights`` the filters.
        steps: The variant's stages; with 0 epochs the network stays as it was fitted.

    Raises:
        CompressionError: The config does not fit the network, or fine-tuning diverged.
    """
    model = bench.copy_of_baseline()
    layers = plan_layers(model, variant.config)
    fit_errors: dict[str, float] = {}
    top1_pre, training = None, Training()
    if steps.fit is not None and steps.fitted is not None:
        model = bench.at_home(swap_convolutions(model, orders_of(layers), variant.bases[0]))
        fit_errors = _fit_once(bench, fit, model, steps.fit)
        top1_pre = bench.top1_once(model, steps.fitted)
    if steps.training is not None:
        training = bench.train_once(model, steps.course, steps.training)
    top1 = bench.top1_once(model, steps.tuned)
    return Approximation(model, layers, variant.epochs, top1_pre, top1, fit_errors, training)


def _fit_once(bench: Bench, fit: str, model: nn.Module, step: Step) -> dict[str, float]:
    """Fit a network's coefficients in place; gives the layers' relative output errors."""

    def make() -> Entry:
        visit = fit_activations if fit == "activations" else output_errors
        errors = visit(model, bench.baseline, bench.calibration_images(), seed=bench.seed, portion=bench.portion)
        return Entry(state_of(model), {"errors": errors})

    entry = bench.store.once(step, make)
    model.load_state_dict(entry.tensors)
    errors: dict[str, float] = entry.facts["errors"]
    return errors


def quantize(bench: Bench, model: nn.Module, backend: str, rounding: str, steps: WidthSteps) -> Quantized:
    """Quantize a network, make its artifact and its ONNX file, and measure the network that the artifact holds.

    Args:
        bench: The run's network, data and device.
        model: The float network; it is left as it is.
        backend: ``brevitas`` or ``torch.ao``.
        rounding: ``gptq`` or ``nearest``.
        steps: The width's stages; training through the rounding starts from the rounded values.
    """
    entry = bench.store.once(steps.artifact, lambda: _quantize(bench, model, get_backend(backend), rounding, steps))
    if steps.training is not None and bench.store.stages[-1].cached:
        bench.retell(steps.training)
    files = {part: as_bytes(tensor) for part, tensor in entry.tensors.items() if part != "logits"}
    facts = {
        **entry.facts,
        "onnx": OnnxFigures(**entry.facts["onnx"]),
        "training": Training(**entry.facts["training"]),
    }
    return Quantized(files["artifact"], files.get("portable"), logits=entry.tensors["logits"], **facts)


def _quantize(bench: Bench, original: nn.Module, backend: Backend, rounding: str, steps: WidthSteps) -> Entry:
    model, training = copy.deepcopy(original), Training()
    images = bench.calibration_images()
    found = round_layers(
        model, images, steps.format, backend, rounding=rounding, seed=bench.seed, portion=bench.portion
    )
    rounded = found.layers
    if steps.training is not None:
        attach_fake_quantizers(model, steps.format, backend, rounded)
        training, rounded = bench.train_once(model, steps.course, steps.training), {}
    record = record_network(model, quantize_network(model, steps.format, backend, rounded))
    network = build_network(record, bench.copy_of_baseline())
    measured = bench.evaluation_of(network)
    portable, figures = bench.onnx.measured_file(
        record, network, bench.identity, images=bench.data.test, measured=measured, processes=bench.processes
    )
    tensors = {
        "artifact": as_tensor(serialize(record, bench.identity)),
        "logits": measured.logits[: images_to_reload(bench.data)].clone(),
    }
    if portable is not None:
        tensors["portable"] = as_tensor(portable)
    facts = {"top1": measured.top1, "rounding_errors": found.errors}
    return Entry(tensors, facts | {"training": asdict(training), "onnx": asdict(figures)})
