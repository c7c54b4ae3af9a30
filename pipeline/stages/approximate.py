"""The stages of one network: approximate and fine-tune once, then quantize and measure for each width."""

from dataclasses import dataclass

from torch import nn

from basis.activations import fit_activations, output_errors
from basis.swap import swap_convolutions
from pipeline.models.layer_orders import LayerPlan, orders_of, plan_layers
from pipeline.options.grid import Variant
from pipeline.stages.context import RunContext
from pipeline.stages.keys import VariantKeys
from pipeline.stages.train import TrainingSummary
from pipeline.store.entry import Entry, state_of
from pipeline.store.store import StageKey


@dataclass(frozen=True)
class ApproximatedNetwork:
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
    training: TrainingSummary


def approximate(context: RunContext, variant: Variant, fit: str, steps: VariantKeys) -> ApproximatedNetwork:
    """Swap the planned convolutions for series, fit them, measure, fine-tune, measure again.

    Args:
        context: The run's network, data and device.
        variant: Its config and basis.
        fit: ``activations`` reproduces the layers' outputs on the calibration images, ``weights`` the filters.
        steps: The variant's stages; with 0 epochs the network stays as it was fitted.

    Raises:
        CompressionError: The config does not fit the network, or fine-tuning diverged.
    """
    model = context.copy_of_baseline()
    layers = plan_layers(model, variant.config)
    fit_errors: dict[str, float] = {}
    top1_pre, training = None, TrainingSummary()
    if steps.fit is not None and steps.fitted is not None:
        model = context.at_home(swap_convolutions(model, orders_of(layers), variant.bases[0]))
        fit_errors = _fit_once(context, fit, model, steps.fit)
        top1_pre = context.top1_once(model, steps.fitted)
    if steps.training is not None:
        training = context.train_once(model, steps.course, steps.training)
    top1 = context.top1_once(model, steps.tuned)
    return ApproximatedNetwork(model, layers, variant.epochs, top1_pre, top1, fit_errors, training)


def _fit_once(context: RunContext, fit: str, model: nn.Module, step: StageKey) -> dict[str, float]:
    """Fit a network's coefficients in place; gives the layers' relative output errors."""

    def make() -> Entry:
        visit = fit_activations if fit == "activations" else output_errors
        errors = visit(model, context.baseline, context.calibration_images(), seed=context.seed, shard=context.portion)
        return Entry(state_of(model), {"errors": errors})

    entry = context.store.once(step, make)
    model.load_state_dict(entry.tensors)
    errors: dict[str, float] = entry.metadata["errors"]
    return errors
