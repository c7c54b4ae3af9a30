"""One variant of the grid: approximate and fine-tune a network once, then quantize it to every width or target."""

from dataclasses import dataclass

from pipeline.models.layer_orders import LayerPlan, plan_layers
from pipeline.options.grid import Target, Variant
from pipeline.stages.approximate import approximate
from pipeline.stages.baseline import Baseline
from pipeline.stages.context import RunContext
from pipeline.stages.evaluate import top1_once
from pipeline.stages.keys import variant_keys
from pipeline.stages.quantize import QuantizedNetwork, quantize
from pipeline.stages.targets.compressor import TargetCompressor
from pipeline.stages.train import TrainingSummary, train_once
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


@dataclass(frozen=True)
class VariantResult:
    """The result of a variant, small enough to be sent between processes.

    Attributes:
        variant: The network: its config, basis and widths.
        network: Figures of the float network.
        quantized: Bits or target -> files and figures of the quantized network.
    """

    variant: Variant
    network: FloatFigures
    quantized: dict[int | Target, QuantizedNetwork]


def run_variant(context: RunContext, baseline: Baseline, variant: Variant) -> VariantResult:
    """Run all stages of a variant.

    Args:
        context: The run.
        baseline: The uncompressed network.
        variant: The network: its config, basis and widths.

    Raises:
        OptionsError: The config does not fit the network.
        NumericalError: The fit or a training has values that are not finite.
    """
    return _run_targets(context, baseline, variant) if variant.targets else _run_widths(context, baseline, variant)


def _run_widths(context: RunContext, baseline: Baseline, variant: Variant) -> VariantResult:
    context.progress.stage(f"{variant.name}: approximate")
    keys = variant_keys(context, baseline, variant)
    fitted = approximate(context, baseline, variant, keys)
    model = fitted.network
    training = TrainingSummary() if keys.training is None else train_once(context, model, keys.training)
    network = FloatFigures(
        layers=fitted.layers,
        fit_errors=fitted.fit_errors,
        top1_pre=fitted.top1,
        top1_post=top1_once(context, model, keys.tuned),
        params=count_params(model),
        compressible_params=compressible_params(model),
        training=training,
    )
    context.progress.result(f"{variant.name}: {_top1_words(network, variant)}")
    quantized: dict[int | Target, QuantizedNetwork] = {}
    for bits, width in keys.widths.items():
        each = quantized[bits] = quantize(context, baseline, model, width)
        context.progress.result(f"{width.name}: Top-1 {each.top1:.2f}, {len(each.artifact) / 1e6:.3f} MB")
    return VariantResult(variant, network, quantized)


def _run_targets(context: RunContext, baseline: Baseline, variant: Variant) -> VariantResult:
    plan = plan_layers(baseline.model, variant.config)
    network = FloatFigures(plan, {}, None, None, count_params(baseline.model), None, TrainingSummary())
    quantized: dict[int | Target, QuantizedNetwork] = {}
    compressor = TargetCompressor(context, baseline, variant)
    for target in variant.targets:
        name = f"{variant.name}, {target.label}"
        context.progress.stage(f"{name}: compress")
        each = quantized[target] = compressor.compress(target)
        missed = "" if each.target_met else ", target missed"
        context.progress.result(f"{name}: Top-1 {each.top1:.2f}, {len(each.artifact) / 1e6:.4f} MB{missed}")
    return VariantResult(variant, network, quantized)


def _top1_words(network: FloatFigures, variant: Variant) -> str:
    if network.top1_pre is None:
        return f"no series, Top-1 {network.top1_post:.2f}"
    if not variant.epochs:
        return f"Top-1 {network.top1_pre:.2f} after the fit"
    kept = "" if network.training.epoch is None else f", epoch {network.training.epoch} kept"
    return f"Top-1 {network.top1_pre:.2f} before and {network.top1_post:.2f} after fine-tuning{kept}"
