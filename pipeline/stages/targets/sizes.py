"""The range of file sizes that a target may have, known before anything is measured."""

import math
from typing import Final

import torch
from torch import nn

from basis.copying import copy_network
from basis.layers import stored_layers, stored_values
from basis.swap import swap_convolutions
from pipeline.artifact import Identity, file_size
from pipeline.artifact.record import NetworkRecord, record_network
from pipeline.errors import OptionsError
from pipeline.models.layer_orders import orders_of, plan_layers
from pipeline.options.grid import Variant, variants
from pipeline.stages.context import RunContext, network_identity
from quant.rate_rounding import coded_weights
from quant.stepped import SteppedTensor

_RANGE_BITS: Final = 4.0
"""Bits per value for which the bytes of batch normalizations are counted in the range."""


def feasible_sizes(context: RunContext, model: nn.Module, variant: Variant) -> tuple[int, int]:
    """Return the sizes of the smallest and the largest file that a target may have, in bytes.

    The smallest has a fiftieth of a bit for every value, the largest 8 bits.

    Args:
        context: The run.
        model: The uncompressed architecture; its values do not matter.
        variant: The basis and the largest orders.
    """
    return size_range(series_network(model, variant), network_identity(context))


def size_range(network: nn.Module, identity: Identity) -> tuple[int, int]:
    """Return the sizes of the smallest and the largest file of a network, in bytes; see ``feasible_sizes``.

    Args:
        network: The network with series convolutions; its values do not matter.
        identity: Its description in the file.
    """
    record = zero_record(network, _RANGE_BITS)
    others = file_size(record, identity)
    values = sum(layer.values.integers.numel() for layer in record.layers if not layer.named_tensor)
    return others + math.ceil(values / 400), others + values


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
    return feasible_sizes(context, context.network, variant)


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


def series_network(model: nn.Module, variant: Variant) -> nn.Module:
    """Return a copy of a network with series convolutions of a variant's largest orders."""
    orders, network = orders_of(plan_layers(model, variant.config)), copy_network(model)
    return swap_convolutions(network, orders, variant.bases[0]) if orders else network


def zero_record(model: nn.Module, bits_per_value: float) -> NetworkRecord:
    """Record a network whose layers' integers are all zero; the weights of ``quant.other_weights`` are as stored.

    Args:
        model: The network, with series convolutions.
        bits_per_value: See ``pipeline.artifact.record.record_network``.
    """
    zeros = {
        name: SteppedTensor(
            torch.zeros(stored_values(module).shape, dtype=torch.int32), torch.zeros((), dtype=torch.int16)
        )
        for name, module in stored_layers(model).items()
    }
    return record_network(model, {**zeros, **coded_weights(model)}, bits_per_value=bits_per_value)
