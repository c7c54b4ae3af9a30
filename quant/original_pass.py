"""Pass the calibration images through the original network, and fit networks to its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import Tensor, nn

from basis.activations import Constrain, LayerwiseFit, layer_seeds
from basis.layers import hessian_layers
from basis.memory import release_memory
from basis.original_outputs import OriginalOutputs, original_outputs
from basis.patches import MAX_FEATURES
from basis.sampling import DEFAULT_SAMPLING, SamplingConfig
from basis.shard import CalibrationShard

RIDGE: Final = 1e-3
"""Ridge of the refit of each layer, a share of the mean diagonal of its Gram matrix."""


@dataclass(frozen=True)
class OriginalPass:
    """The calibration images and the original network's outputs for them.

    Attributes:
        images: Training images without labels, (N, C, H, W), on the device.
        outputs: The original's outputs at the sampled positions of each layer.
        seeds: Layer name -> seed of its sampled positions, for the regular layers whose Hessian is not too large.
        shard: Calibration shard of this rank.
        sampling: Sizes of samples and chunks.
    """

    images: Tensor
    outputs: OriginalOutputs
    seeds: dict[str, int]
    shard: CalibrationShard
    sampling: SamplingConfig

    @classmethod
    def record(
        cls,
        model: nn.Module,
        original: nn.Module,
        images: Tensor,
        *,
        seed: int = 0,
        shard: CalibrationShard | None = None,
        sampling: SamplingConfig = DEFAULT_SAMPLING,
        max_features: int = MAX_FEATURES,
    ) -> OriginalPass:
        """Run the original network.

        Args:
            model: The network to be rounded: the original with series convolutions.
            original: The uncompressed network.
            images: See the attributes, like the arguments after it.
            seed: Seed of the sampled positions of large feature maps.
            shard: None if the rank holds all images.
            sampling: See the attributes.
            max_features: Features of the largest Hessian; layers with more, and irregular ones, are rounded to nearest.
        """
        seeds = layer_seeds(hessian_layers(model, max_features), seed)
        whole = shard or CalibrationShard.whole(len(images))
        with torch.no_grad():
            outputs = original_outputs(original, seeds, images, whole, sampling, additions=True)
        release_memory()
        return cls(images, outputs, seeds, whole, sampling)

    def absorbs(self, layer: nn.Module, name: str) -> bool:
        """Return True if a bias or the normalization after a layer absorbs a constant of its outputs."""
        return cast("Tensor | None", layer.bias) is not None or name in self.outputs.norms

    def fit(self, model: nn.Module, constrain: Constrain) -> dict[str, float]:
        """Pass the images through a network and fit its layers; see ``basis.activations.LayerwiseFit``."""
        outputs = OriginalOutputs(dict(self.outputs.outputs), dict(self.outputs.shortcuts), self.outputs.norms)
        visit = LayerwiseFit(model, outputs, self.seeds, self.shard, self.sampling, ridge=RIDGE, constrain=constrain)
        with torch.no_grad():
            return visit.run(self.images)
