"""Join the runs of layers that get a part of the batch at a time, as after ``x.split(64)``.

Such a layer has one row of inputs for each image, like any other, but in several runs of one pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from basis.shard import CalibrationShard


def are_parts(lengths: Sequence[int], count: int) -> bool:
    """Return True if the inputs of several runs, of so many rows each, are together one row for each image."""
    return len(lengths) > 1 and sum(lengths) == count


class SampledRuns:
    """Sampled rows of layers in one pass.

    Args:
        shard: Calibration shard of the images of the pass.

    Attributes:
        lengths: Layer name -> length of the first axis of its input in each run.
    """

    def __init__(self, shard: CalibrationShard) -> None:
        self._shard = shard
        self._first: dict[str, Tensor] = {}
        self._parts: dict[str, list[Tensor]] = {}
        self.lengths: dict[str, list[int]] = {}

    def add(self, name: str, length: int, sampled: Callable[[CalibrationShard], Tensor]) -> None:
        """Add a run of a layer.

        Args:
            name: Name of the layer.
            length: Length of the first axis of its input.
            sampled: Returns its rows at the positions of a shard, (..., rows, n).
        """
        lengths, count = self.lengths.setdefault(name, []), self._shard.count
        start = sum(lengths)
        lengths.append(length)
        if length and name not in self._first:
            self._first[name] = sampled(self._shard)
        if 0 < length < count and start + length <= count:
            part = replace(self._shard, first=self._shard.first + start, count=length)
            self._parts.setdefault(name, []).append(sampled(part))

    def rows(self) -> dict[str, Tensor]:
        """Return the rows of each layer that ran: of all its runs if they are parts, or else of its first run."""
        joined = {
            name: torch.cat(self._parts[name], dim=-2)
            for name, lengths in self.lengths.items()
            if are_parts(lengths, self._shard.count)
        }
        return self._first | joined


class WholeInputs:
    """The inputs of layers for all images of a pass.

    Args:
        network: The network of the pass.
        images: Images of the pass, (N, C, H, W).

    Attributes:
        running: True during a pass that only collects inputs, in which no other hook may act.
    """

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self._network, self._images = network, images
        self.running = False

    def of(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Return a layer's input, or the inputs of all its runs if they are parts.

        If the input has fewer rows than there are images, the network runs once more.

        Args:
            layer: The layer, at its first run.
            x: Its input, (n, ...).
        """
        count = len(self._images)
        if len(x) >= count:
            return x
        parts: list[Tensor] = []

        def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            parts.append(inputs[0].detach().clone())  # an operation in place may change it afterwards

        hook = layer.register_forward_pre_hook(keep)
        self.running = True
        try:
            self._network(self._images)
        finally:
            self.running = False
            hook.remove()
        return torch.cat(parts) if are_parts([len(part) for part in parts], count) else x
