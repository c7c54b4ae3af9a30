"""Replace convolutions by series or parametric families, fit their coefficients, and measure the network."""

from dataclasses import dataclass

from torch import Tensor, nn

from basis.activations import fit_activations, output_errors
from basis.computed import ComputedConv2d
from basis.copying import copy_network
from basis.modes import evaluating
from basis.progress import reported_to
from basis.shard import CalibrationShard
from pipeline.models.layer_orders import LayerPlan, plan_layers
from pipeline.models.replacement import replace_layers
from pipeline.options.grid import Variant
from pipeline.runtime.device import placed
from pipeline.stages.baseline import Baseline
from pipeline.stages.context import RunContext, calibration_images, calibration_shard
from pipeline.stages.evaluate import top1_once
from pipeline.stages.keys import VariantKeys
from pipeline.store.entry import Entry, load_state, state_of
from pipeline.store.store import StageKey


@dataclass(frozen=True)
class Approximation:
    """A network with fitted series, and its figures.

    Attributes:
        network: The network, in evaluation mode; a copy of the uncompressed one if no layer is replaced.
        layers: The plan of each layer.
        fit_errors: Layer name -> relative output error of the fit.
        top1: Top-1 in percent; None if no layer is replaced.
    """

    network: nn.Module
    layers: list[LayerPlan]
    fit_errors: dict[str, float]
    top1: float | None


def approximate(context: RunContext, baseline: Baseline, variant: Variant, keys: VariantKeys) -> Approximation:
    """Replace the planned convolutions, fit their coefficients, and measure.

    Args:
        context: The run.
        baseline: The uncompressed network.
        variant: The config and basis.
        keys: The variant's stages.

    Raises:
        OptionsError: The config does not fit the network.
        NumericalError: The fit has values that are not finite.
    """
    model = copy_network(baseline.model)
    layers = plan_layers(model, variant.config)
    if keys.fit is None or keys.fitted is None:
        return Approximation(model, layers, {}, None)
    model = evaluating(placed(replace_layers(model, layers, variant.bases[0]), context.device))
    errors = fit_once(context, baseline, model, keys.fit, fit=variant.fit(context.options))
    return Approximation(model, layers, errors, top1_once(context, model, keys.fitted))


def fit_once(
    context: RunContext, baseline: Baseline, model: nn.Module, stage: StageKey, *, fit: str
) -> dict[str, float]:
    """Fit a network's coefficients in place, or load them from the store; see ``fit_series``.

    Returns:
        Layer name -> relative output error of the fit.
    """

    def compute() -> Entry:
        images, shard = calibration_images(context), calibration_shard(context)
        options, layers = context.options, sum(isinstance(module, ComputedConv2d) for module in model.modules())
        with context.progress.track(stage.name, layers) as advance, reported_to(advance):
            errors = fit_series(model, baseline.model, images, fit=fit, seed=options.seed, shard=shard)
        return Entry(state_of(model), {"errors": errors})

    entry, cached = context.store.once(stage, compute)
    if cached or context.processes.count > 1:
        load_state(model, entry.tensors)
    errors: dict[str, float] = entry.metadata["errors"]
    return errors


def fit_series(
    model: nn.Module,
    original: nn.Module,
    images: Tensor,
    *,
    fit: str,
    seed: int,
    shard: CalibrationShard | None = None,
) -> dict[str, float]:
    """Fit the coefficients of a network in place, or only measure their errors.

    Args:
        model: The network with series or parametric convolutions, fitted to their weights.
        original: The network before the swap.
        images: See ``basis.activations.fit_activations``.
        fit: ``activations`` fits to the layers' outputs; ``weights`` keeps the coefficients and measures, which is
            all that a parametric family allows.
        seed: Seed of the sampled positions.
        shard: None if the rank holds all images.

    Returns:
        Layer name -> relative output error of the fit.
    """
    visit = fit_activations if fit == "activations" else output_errors
    return visit(model, original, images, seed=seed, shard=shard)
