"""Recognize layers that run on some of the images alone, as experts behind a gate.

The original and the compressed network may send different images through such a layer. The rows of its outputs then
belong to different images, so the layer can be neither fitted nor rounded by them.
"""

import logging
from collections.abc import Container, Iterable, Mapping, Sequence, Set
from contextlib import ExitStack
from typing import Final

import torch
from torch import Tensor, nn

from basis.modes import evaluation_mode
from basis.parts import are_parts
from basis.patches import Sample, samples
from basis.sampling import SamplingConfig
from basis.shard import CalibrationShard

logger = logging.getLogger(__name__)

_WARNING: Final = (
    "the layer %s runs on some of the calibration images alone, as an expert behind a gate, or several times on parts "
    "of the batch: it is not fitted to its outputs, and its values are rounded to nearest"
)


@torch.no_grad()
def routed_layers(network: nn.Module, runs: Mapping[str, Sequence[int]], images: Tensor, count: int) -> set[str]:
    """Return the layers whose number of rows depends on the images and not only on how many there are.

    Args:
        network: The network.
        runs: Layer name -> length of the first axis of its input in each run of a pass.
        images: Images, (N, C, H, W), of which two are enough, on its device.
        count: Number of images of the pass.
    """
    rows = {name: lengths[0] for name, lengths in runs.items() if lengths[0] % count or not lengths[0]}
    parts = {name for name in rows if rows[name] and are_parts(runs[name], count)}
    others = rows.keys() - parts
    # With one image in all rows, experts behind a gate get all rows or none.
    again = _lengths(network, parts, images[:1].expand(count, *images.shape[1:]).clone())
    of_two = _lengths(network, others, images[:2])
    # A layer may run on a constant, or on pairs of images.
    expected = {name: (rows[name], rows[name] * len(images[:2]) / count) for name in others}
    return {name for name in parts if again.get(name) != runs[name]} | {
        name for name in others if not rows[name] or of_two.get(name, [0])[0] not in expected[name]
    }


def _lengths(network: nn.Module, names: Set[str], images: Tensor) -> dict[str, list[int]]:
    """Return the lengths of the first axis of inputs in each run, for layers of a network."""
    lengths: dict[str, list[int]] = {}
    if not names:
        return lengths
    with ExitStack() as hooks:
        for name in names:

            def on_input(module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                lengths.setdefault(name, []).append(len(inputs[0]))

            hooks.callback(network.get_submodule(name).register_forward_pre_hook(on_input).remove)
        hooks.enter_context(evaluation_mode(network))
        network(images)
    return lengths


def on_all_ranks(names: Iterable[str], here: Container[str], shard: CalibrationShard) -> list[str]:
    """Return the layers that are among the given ones on every rank.

    Args:
        names: All layers, the same on every rank.
        here: The layers of this rank.
        shard: Calibration shard of this rank.
    """
    names = list(names)
    counts = shard.reduce(torch.tensor([*(float(name in here) for name in names), 1.0]))
    return [name for name, count in zip(names, counts, strict=False) if count == counts[-1]]


def on_any_rank(names: Iterable[str], here: Sequence[str], shard: CalibrationShard) -> list[str]:
    """Return the layers that are among the given ones on one rank or more, by their mean place on these ranks.

    Args:
        names: All layers, the same on every rank.
        here: The layers of this rank, in order.
        shard: Calibration shard of this rank.
    """
    names, places = list(names), {name: float(place) for place, name in enumerate(here)}
    summed, counts = shard.reduce(
        torch.tensor(
            [[places.get(name, 0.0) for name in names], [float(name in places) for name in names]], dtype=torch.float64
        )
    )
    means = {name: float(total / count) for name, total, count in zip(names, summed, counts, strict=True) if count}
    return sorted(means, key=means.__getitem__)


def holds_on_all_ranks(condition: bool, shard: CalibrationShard) -> bool:
    """Return True if a condition holds on every rank."""
    return bool(on_all_ranks([""], [""] if condition else [], shard))


def samples_of(
    rows: int, conv: nn.Conv2d, x: Tensor, *, seed: int, shard: CalibrationShard, sampling: SamplingConfig
) -> list[Sample]:
    """Choose the positions of recorded outputs; see ``basis.patches.samples``.

    Args:
        rows: Number of rows of the outputs, which were recorded in another network.
        conv: The convolution.
        x: Its inputs, (N, in_channels, H, W).
        seed: Seed of the positions.
        shard: Calibration shard of this rank.
        sampling: Number of positions, and size of a batch.

    Returns:
        The samples; none if the inputs are of other images than the outputs, on any rank.
    """
    chosen = samples(conv, x, seed=seed, shard=shard, sampling=sampling) if len(x) else []
    alike = sum(sample.rows for sample in chosen) == rows
    return chosen if holds_on_all_ranks(alike, shard) else []


def warn_of_routing(name: str) -> None:
    """Warn that a layer does not run on all images."""
    logger.warning(_WARNING, name)
