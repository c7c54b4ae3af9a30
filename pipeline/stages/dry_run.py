"""The plan of a run: its stages, their state in the store, and the estimated size of every layer and file."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import torch
from tabulate import tabulate

from basis.copying import copy_network
from pipeline.artifact import plan_stream, serialize
from pipeline.artifact.record import record_network
from pipeline.artifact.summary import LayerBits, layer_bits
from pipeline.models.layer_orders import LayerPlan, orders_of, plan_layers, shape_text
from pipeline.models.replacement import replace_layers, replaced_layers
from pipeline.options.grid import Target, Variant, variants
from pipeline.options.options import Options
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.progress import SilentProgress
from pipeline.runtime.signals import Interruption
from pipeline.stages.activation_memory import LIBRARY_BYTES, activation_bytes, sample_bytes, weight_bytes
from pipeline.stages.baseline import (
    Baseline,
    InitialNetwork,
    baseline_key,
    check_weights,
    initial_network,
    make_baseline,
)
from pipeline.stages.context import RunContext, log_data_notes, log_precision, make_context, network_identity
from pipeline.stages.keys import variant_keys
from pipeline.stages.mirroring import mirroring_key, stored_mirroring
from pipeline.stages.targets.compressor import target_stages
from pipeline.stages.targets.sizes import check_sizes, target_range
from pipeline.store.entry import load_state
from pipeline.store.store import StageKey
from quant.backends import get_backend
from quant.counting import count_params
from quant.network import quantize_network
from quant.schemes import get_format
from reports.gate import SMALLEST_SHARE

_WORDS: Final = {"stored": "in the store", "begun": "goes on from a checkpoint", "to do": "to do"}
"""State of a stage in the store -> its meaning for the run."""


def plan_text(options: Options) -> str:
    """Describe a run without doing it: every stage with its state in the store, and the size of every layer and file.

    Nothing is downloaded. Sizes are estimates from random weights; the integers of trained weights take more or fewer
    bits.

    Raises:
        OptionsError: The options do not fit the network or the data, or a target size is not feasible.
        DataError: Data or weights are missing or damaged.
    """
    alone = options.model_copy(update={"workers": 0})
    check_weights(options)
    context = make_context(alone, make_accelerator(options.device, options.precision), SilentProgress(), Interruption())
    log_data_notes(context)
    log_precision(context)
    initial = initial_network(context, may_download=False)
    baseline = _as_stored(context, initial)
    data = context.data
    lines = [f"{options.model} on {data.name}: {len(data.train)} training and {len(data.test)} test images"]
    if initial.download:
        lines.append(f"the run will download {options.model}'s weights from {initial.download}")
    lines.append(_memory(context))
    for variant in variants(options):
        lines += ["", *(_targets(context, variant) if variant.targets else _sizes(context, variant))]
    stages = [initial.job.stage] if initial.job else []
    stages.append(baseline_key(context, baseline.digest))
    stages += filter(None, [mirroring_key(context, baseline.digest)])
    for variant in variants(options):
        for target in variant.targets:
            stages += target_stages(context, baseline, variant, target)
        if not variant.targets:
            stages += variant_keys(context, baseline, variant)
    return "\n".join([*lines, "", *_states(context, stages)])


def _memory(context: RunContext) -> str:
    """Return a line with the estimated peak of the memory, and its parts. Images in memory are not counted."""
    options, network = context.options, context.network
    shape, count = context.data.input_shape, context.calibration_count
    plans = [replaced_layers(plan_layers(network, variant.config, options.model)) for variant in variants(options)]
    samples = max(sample_bytes(network, plan, shape, count) for plan in plans)
    weights = weight_bytes(network, len(options.bits))
    images = 2 * math.prod(shape) * torch.float32.itemsize  # in both memory formats
    calibration, training = count * (activation_bytes(network, shape, training=False) + images), 0.0
    text = (
        f"{LIBRARY_BYTES / 1e9:.1f} GB for libraries and batches, {weights / 1e9:.2f} GB for copies of the weights, "
        f"{calibration / 1e9:.2f} GB for activations of {count} calibration images, {samples / 1e9:.2f} GB for samples "
        "of them"
    )
    if options.epochs or options.qat_epochs:
        narrow = 0.5 if context.accelerator.precision == "bf16" else 1.0
        training = narrow * options.batch_size * activation_bytes(network, shape, training=True)
        text += f"; {training / 1e9:.2f} GB for a training step of {options.batch_size} images (--batch-size)"
    peak = LIBRARY_BYTES + weights + max(calibration + samples, training)
    return f"memory: up to about {peak / 1e9:.1f} GB: {text}"


def _as_stored(context: RunContext, initial: InitialNetwork) -> Baseline:
    """Return the baseline if no training is needed; otherwise a random network, whose keys match no stored result."""
    entry = context.store.find(initial.job.stage.key) if initial.job else None
    if entry is not None:
        load_state(initial.model, entry.tensors)
    unmeasured = make_baseline(context, initial.model, initial.origin, float("nan"))
    mirroring = stored_mirroring(context, unmeasured.digest)
    return make_baseline(context, unmeasured.model, initial.origin, float("nan"), mirroring)


def _states(context: RunContext, stages: Sequence[StageKey]) -> Iterator[str]:
    """Yield a table of the stages, and a count; several targets share a measurement, which is listed once."""
    rows = [(stage.name, _WORDS[context.store.state(stage)]) for stage in dict.fromkeys(stages)]
    stored = sum(words == _WORDS["stored"] for _, words in rows)
    yield tabulate(rows, ("Stage", "State"), disable_numparse=True)
    yield from ("", f"{stored} of {len(rows)} stages are in the store {context.store.folder}")


def _sizes(context: RunContext, variant: Variant) -> list[str]:
    """Return a line for every width and basis, and a table of the layers."""
    options = context.options
    model = copy_network(context.network)
    plan = plan_layers(model, variant.config, options.model)
    replaced = replaced_layers(plan)
    if replaced:
        model = replace_layers(model, plan, variant.bases[0])
    what = "layers of the family" if variant.is_parametric else "layers as series"
    lines, sizes = list[str](), dict[str, dict[str, LayerBits]]()
    for bits in variant.bits:
        format = get_format(options.scheme, bits)
        record = record_network(model, quantize_network(model, format, get_backend(options.backend)))
        stream = plan_stream(record)
        size = len(serialize(record, network_identity(context), stream)) / 1e6
        figures = f"{len(replaced)} {what}, {count_params(model):,} parameters, {size:.3f} MB"
        lines += [f"{basis} {variant.config.text}, {format}: {figures}" for basis in variant.bases]
        sizes[f"MB, {format}"] = layer_bits(record, stream)
    return [*lines, _layer_table(plan, sizes)]


def _targets(context: RunContext, variant: Variant) -> list[str]:
    """Return the feasible range of sizes, a line for every target, and a table of the layers with the largest orders.

    Raises:
        OptionsError: A target size is not feasible.
    """
    smallest, largest = sizes = target_range(context, variant)
    check_sizes(variant, sizes)
    plan = plan_layers(context.network, variant.config)
    found = (
        f"{len(orders_of(plan))} layers as series, feasible files of {smallest / 1e6:.12g} to {largest / 1e6:.12g} MB"
    )
    lines = [f"{variant.name}: {found}", *(_target_line(variant, target) for target in variant.targets)]
    return [*lines, _layer_table(plan, {})]


def _target_line(variant: Variant, target: Target) -> str:
    if target.megabytes is None:
        loss = f"{target.drop:.12g} point{'' if target.drop == 1 else 's'}"
        return f"{variant.name}: the smallest file that loses at most {loss} on held-out training images"
    least = SMALLEST_SHARE * target.megabytes
    return f"{variant.name}: a file of {least:g} to {target.megabytes:.12g} MB"


def _layer_bytes(layer: LayerPlan, sizes: Mapping[str, LayerBits]) -> float:
    if layer.name not in sizes:
        return layer.float_bytes
    return (sizes[layer.name].integers + sizes[layer.name].scales) / 8


def _layer_table(plan: Sequence[LayerPlan], sizes: dict[str, dict[str, LayerBits]]) -> str:
    """Format one line per layer. Normalization and biases are only in the size of the whole file."""
    rows = [
        (
            layer.name,
            shape_text(layer.kernel),
            shape_text(layer.order),
            *(f"{_layer_bytes(layer, size) / 1e6:.6f}" for size in sizes.values()),
        )
        for layer in plan
    ]
    align = ("left",) * 3 + ("right",) * len(sizes)
    return tabulate(rows, ("Layer", "Kernel", "Order", *sizes), disable_numparse=True, colalign=align)
