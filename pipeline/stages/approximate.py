"""Replace convolutions by series, fit the coefficients, fine-tune, and measure before and after."""

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
from pipeline.stages.train import TrainingSummary, train_once
from pipeline.store.entry import Entry, load_state, state_of
from pipeline.store.store import StageKey
from quant.counting import compressible_params, count_params


@dataclass(frozen=True)
class FloatFigures:
    """The figures of a network after approximation and fine-tuning.

    Attributes:
        layers: The plan of each layer.
        fit_errors: Layer name -> relative output error of the fit.
        top1_pre: Top-1 before fine-tuning, in percent; None for the dense network, which is not approximated, and for
            rows of a target, which have no float network.
        top1_post: Top-1 after fine-tuning, in percent; None for rows of a target.
        params: See ``quant.counting.count_params``.
        compressible_params: See ``quant.counting.compressible_params``; None for rows of a target.
        training: Fine-tuning.
    """

    layers: list[LayerPlan]
    fit_errors: dict[str, float]
    top1_pre: float | None
    top1_post: float | None
    params: int
    compressible_params: int | None
    training: TrainingSummary


def approximate(
    context: RunContext, baseline: Baseline, variant: Variant, keys: VariantKeys
) -> tuple[nn.Module, FloatFigures]:
    """Replace the planned convolutions, fit them, measure, fine-tune, and measure again.

    Args:
        context: The run.
        baseline: The uncompressed network.
        variant: The config and basis.
        keys: The variant's stages; with 0 epochs the network stays as fitted.

    Returns:
        The float network and its figures.

    Raises:
        OptionsError: The config does not fit the network.
        NumericalError: The fit or the training has values that are not finite.
    """
    model = copy_network(baseline.model)
    layers = plan_layers(model, variant.config)
    fit_errors: dict[str, float] = {}
    top1_pre, training = None, TrainingSummary()
    if keys.fit is not None and keys.fitted is not None:
        model = evaluating(placed(replace_layers(model, layers, variant.bases[0]), context.device))
        fit_errors = fit_once(context, baseline, model, keys.fit, fit=variant.fit(context.options))
        top1_pre = top1_once(context, model, keys.fitted)
    if keys.training is not None:
        training = train_once(context, model, keys.training)
    top1 = top1_once(context, model, keys.tuned)
    counts = count_params(model), compressible_params(model)
    return model, FloatFigures(layers, fit_errors, top1_pre, top1, *counts, training)


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
