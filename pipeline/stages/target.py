"""Compress a network to a target: the size of its file, or the loss of Top-1 on held-out training images."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Final

import torch
from torch import nn

from basis.swap import swap_convolutions
from pipeline.artifact import serialize
from pipeline.artifact.record import NetworkRecord, build_network, record_network
from pipeline.errors import OptionsError
from pipeline.models.layer_orders import orders_of, plan_layers
from pipeline.models.registry import build_model
from pipeline.options.grid import Target, Variant, variants
from pipeline.runtime.device import placed
from pipeline.runtime.randomness import RandomStream
from pipeline.stages.baseline import Baseline
from pipeline.stages.context import (
    RunContext,
    calibration_images,
    calibration_inputs,
    calibration_shard,
    network_identity,
)
from pipeline.stages.evaluate import evaluate
from pipeline.stages.quantize import QuantizedNetwork, measured_entry, quantized_network
from pipeline.stages.train import JUDGED_IMAGES, TrainingSummary
from pipeline.store.entry import Entry
from pipeline.store.store import StageKey
from quant.backends import get_backend
from quant.calibration import round_layers
from quant.network import quantize_network
from quant.schemes import get_format

_WIDTHS: Final = (8, 7, 6, 5, 4, 3, 2)


def compress_to_target(context: RunContext, baseline: Baseline, variant: Variant, target: Target) -> QuantizedNetwork:
    """Compress a network to a target, or read the result from the store.

    A target that cannot be met gives the nearest network, with ``target_met`` False.

    Args:
        context: The run.
        baseline: The uncompressed network.
        variant: The basis, the largest orders and the epochs.
        target: One of the variant's targets.
    """
    (stage,) = target_stages(context, baseline, variant, target)
    entry, _ = context.store.once(stage, lambda: _compress(context, baseline, variant, target))
    return quantized_network(entry)


def target_stages(context: RunContext, baseline: Baseline, variant: Variant, target: Target) -> Iterator[StageKey]:
    """Yield the stages of a target in order, for the plan of a run."""
    name = f"{variant.name}, {target.label}"
    inputs = {
        "network": baseline.digest,
        "config": variant.config.text,
        "basis": variant.bases[0],
        "epochs": variant.epochs,
        "target": asdict(target),
        "calibration": calibration_inputs(context),
        "identity": asdict(network_identity(context)),
        "test": context.data.test.digest,
    }
    yield StageKey(f"{name}: compression", context.store.key("target", **inputs))


def feasible_sizes(context: RunContext, model: nn.Module, variant: Variant) -> tuple[int, int]:
    """Return the sizes of the smallest and the largest file that a target may have, in bytes.

    Args:
        context: The run.
        model: The uncompressed architecture; its values do not matter.
        variant: The basis and the largest orders.
    """
    series = _series(model, variant)
    record = record_network(series, quantize_network(series, get_format("int", _WIDTHS[0]), get_backend("brevitas")))
    identity = network_identity(context)
    return len(serialize(replace(record, layers=()), identity)), len(serialize(record, identity))


def check_targets(context: RunContext) -> None:
    """Check the target sizes of a run before anything is measured.

    Raises:
        OptionsError: A target size is outside the feasible range.
    """
    with context.processes.together():
        for variant in variants(context.options):
            if any(target.bytes for target in variant.targets):
                check_sizes(variant, target_range(context, variant))


def target_range(context: RunContext, variant: Variant) -> tuple[int, int]:
    """Return ``feasible_sizes`` of the network of the options."""
    with RandomStream(0, torch.device("cpu")).drawn_from():
        model = build_model(context.options.model, context.data.classes)
    return feasible_sizes(context, model, variant)


def check_sizes(variant: Variant, sizes: tuple[int, int]) -> None:
    """Check the target sizes of a variant.

    Args:
        variant: The variant.
        sizes: Its feasible range, see ``feasible_sizes``.

    Raises:
        OptionsError: A target size is outside the range.
    """
    smallest, largest = sizes
    for target in variant.targets:
        if target.bytes is not None and not smallest <= target.bytes <= largest:
            raise OptionsError(
                f"--target-mb: got {target.megabytes:.12g} for {variant.name}; allowed: {smallest / 1e6:.12g} to "
                f"{largest / 1e6:.12g} MB"
            )


def _series(model: nn.Module, variant: Variant) -> nn.Module:
    orders = orders_of(plan_layers(model, variant.config))
    return swap_convolutions(copy.deepcopy(model), orders, variant.bases[0])


def _compress(context: RunContext, baseline: Baseline, variant: Variant, target: Target) -> Entry:
    model = placed(_series(baseline.model, variant), context.device).eval()
    before = _held_out_top1(context, baseline.model)
    tried = [_rounded(context, model, bits) for bits in _WIDTHS]
    records = [record for record, _ in tried]
    if target.drop is None:
        sizes = [len(serialize(record, network_identity(context))) for record in records]
        chosen = _first([size <= (target.bytes or 0) for size in sizes])
        met = target.fits(sizes[chosen])
    else:
        lost = [before - _held_out_top1(context, build_network(r, copy.deepcopy(baseline.model))) for r in records]
        kept = [each <= target.drop for each in lost]
        chosen = max((place for place, each in enumerate(kept) if each), default=0)
        met = kept[chosen]
    record, errors = tried[chosen]
    return measured_entry(context, baseline, record, errors, TrainingSummary(), target_met=met)


def _rounded(context: RunContext, model: nn.Module, bits: int) -> tuple[NetworkRecord, dict[str, float]]:
    format, backend = get_format("int", bits), get_backend(context.options.backend)
    images, shard = calibration_images(context), calibration_shard(context)
    found = round_layers(model, images, format, backend, rounding="gptq", seed=context.options.seed, shard=shard)
    return record_network(model, quantize_network(model, format, backend, found.layers)), found.errors


def _held_out_top1(context: RunContext, model: nn.Module) -> float:
    return evaluate(model, context.data.train.part(0, JUDGED_IMAGES), device=context.device).top1


def _first(fits: Sequence[bool]) -> int:
    return fits.index(True) if True in fits else len(fits) - 1
