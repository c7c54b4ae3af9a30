"""One variant of the grid: approximate and fine-tune a network once, then quantize it to every width."""

from dataclasses import dataclass

from pipeline.options.grid import Variant
from pipeline.stages.approximate import FloatFigures, approximate
from pipeline.stages.baseline import Baseline
from pipeline.stages.context import RunContext
from pipeline.stages.keys import variant_keys
from pipeline.stages.quantize import QuantizedNetwork, quantize


@dataclass(frozen=True)
class VariantResult:
    """The result of a variant, small enough to be sent between processes.

    Attributes:
        variant: The network: its config, basis and widths.
        network: Figures of the float network.
        quantized: Bits -> files and figures of the quantized network.
    """

    variant: Variant
    network: FloatFigures
    quantized: dict[int, QuantizedNetwork]


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
    context.progress.stage(f"{variant.name}: approximate")
    keys = variant_keys(context, baseline, variant)
    model, network = approximate(context, baseline, variant, keys)
    context.progress.result(f"{variant.name}: {_top1_words(network)}")
    quantized = {}
    for bits, width in keys.widths.items():
        each = quantized[bits] = quantize(context, baseline, model, width)
        context.progress.result(f"{width.name}: Top-1 {each.top1:.2f}, {len(each.artifact) / 1e6:.3f} MB")
    return VariantResult(variant, network, quantized)


def _top1_words(network: FloatFigures) -> str:
    if network.top1_pre is None:
        return f"no series, Top-1 {network.top1_post:.2f}"
    return f"Top-1 {network.top1_pre:.2f} before and {network.top1_post:.2f} after fine-tuning"
