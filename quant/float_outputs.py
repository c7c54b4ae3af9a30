"""Outputs of the float network that rounding reproduces, for as many layers at a time as fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Final, cast

import torch
from torch import Tensor, nn

from basis.chunks import in_chunks
from basis.copying import copy_network
from basis.parts import SampledRuns
from basis.patches import samples
from basis.routing import on_all_ranks, routed_layers, warn_of_routing
from basis.sampling import SamplingConfig
from basis.shard import CalibrationShard
from quant.hessian import conv_targets, linear_targets

ROW_BYTES: Final = 400_000_000
"""Most bytes of sampled outputs that are held at once, but for a single layer with more."""


class FloatOutputs:
    """Sampled outputs, without the bias, of each layer at its first run in the float network.

    If each run of a layer gets a part of the images, the outputs are those of all runs; see ``basis.parts``.
    A pass over all images computes the outputs of consecutive layers, up to ``ROW_BYTES``. A network whose layers all
    fit needs one pass.

    Args:
        network: The float network, in evaluation mode; a copy is made.
        seeds: Layer name -> seed of its sampled positions, in network order.
        images: (N, C, H, W), on the network's device.
        shard: Calibration shard of this rank.
        sampling: Sizes of samples and chunks.
    """

    def __init__(
        self,
        network: nn.Module,
        seeds: Mapping[str, int],
        images: Tensor,
        shard: CalibrationShard,
        sampling: SamplingConfig,
    ) -> None:
        self._network, self._seeds, self._images = copy_network(network), seeds, images
        self._shard, self._sampling = shard, sampling
        self._bytes = layer_row_bytes(self._network, seeds, images[:2], len(images), sampling)
        self._left, self._found = list(seeds), dict[str, Tensor]()
        self._lengths: dict[str, list[int]] = {}
        self._count = 0

    def pop(self, name: str) -> Tensor | None:
        """Return the outputs of a layer, and release them.

        Returns:
            (groups, rows, O / groups); for a linear layer (rows, O). None for a layer that has no seed, does not run,
            or runs on some of the images alone; see ``basis.routing``.
        """
        if name in self._left:
            group = self._group(name)
            self._left = [other for other in self._left if other not in group]
            found = in_chunks(
                self._images, self._shard, lambda chunk, part: self._rows(group, chunk, part), self._sampling
            )
            routed = routed_layers(self._network, self._lengths, self._images, self._count)
            kept = on_all_ranks(group, found.keys() - routed, self._shard)
            self._found |= {each: found[each] for each in kept}
            for each in sorted(self._lengths.keys() - set(kept)):
                warn_of_routing(each)
        return self._found.pop(name, None)

    def _group(self, name: str) -> list[str]:
        """Return a layer and the layers after it that fit into the memory with it."""
        group: list[str] = []
        room = ROW_BYTES - sum(found.nbytes for found in self._found.values())
        for other in self._left[self._left.index(name) :]:
            room -= self._bytes.get(other, 0)
            if group and room < 0:
                break
            group.append(other)
        return group

    def _rows(self, names: list[str], images: Tensor, shard: CalibrationShard) -> dict[str, Tensor]:
        found = SampledRuns(shard)
        self._lengths, self._count = found.lengths, len(images)

        def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            @torch.no_grad()  # a forward may enable gradients
            def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                def sampled(part: CalibrationShard) -> Tensor:
                    if not isinstance(module, nn.Conv2d):
                        return linear_targets(cast(nn.Linear, module), output)
                    seed = self._seeds[name]
                    chosen = samples(module, inputs[0], seed=seed, shard=part, sampling=self._sampling)
                    return conv_targets(module, chosen, output)

                found.add(name, len(inputs[0]), sampled)

            return keep

        with ExitStack() as hooks:
            for name in names:
                hooks.callback(self._network.get_submodule(name).register_forward_hook(hook(name)).remove)
            self._network(images)
        return found.rows()


@torch.no_grad()
def layer_row_bytes(
    network: nn.Module, names: Iterable[str], images: Tensor, count: int, sampling: SamplingConfig
) -> dict[str, int]:
    """Return the bytes of the sampled outputs of each layer that runs.

    Args:
        network: The network, in evaluation mode.
        names: The layers, convolutions and linear layers.
        images: One or two images, (N, C, H, W), on its device.
        count: Number of calibration images.
        sampling: Number of sampled positions.
    """
    found: dict[str, int] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            channels = output.shape[1] if isinstance(module, nn.Conv2d) else output.shape[-1]
            rows = output.numel() // channels // len(images)
            if isinstance(module, nn.Conv2d):
                rows = min(rows, -(-sampling.positions // count))
            found[name] = rows * count * channels * torch.float32.itemsize

        return keep

    with ExitStack() as hooks:
        for name in names:
            hooks.callback(network.get_submodule(name).register_forward_hook(hook(name)).remove)
        network(images)
    return found
