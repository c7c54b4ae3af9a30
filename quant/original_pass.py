"""Pass the calibration images through the original network, and fit networks to its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, cast

import torch
from torch import Tensor, nn

from basis.activations import Constrain, LayerwiseFit, layer_seeds
from basis.layers import is_regular, stored_layers, stored_values
from basis.original_outputs import OriginalOutputs, original_outputs
from basis.patches import MAX_FEATURES
from basis.sampling import DEFAULT_SAMPLING, SamplingConfig
from basis.shard import CalibrationShard

RIDGE: Final = 1e-3
"""Ridge of the refit of each layer, a share of the mean diagonal of its Gram matrix."""
ROUNDING_IMAGES: Final = 1024
"""Calibration images that pass the network while it is rounded; all images measure the Hessians."""
ROUNDING_POSITIONS: Final = 2**14
"""Output positions of a layer in that pass, if there are more images."""


@dataclass(frozen=True)
class OriginalPass:
    """The calibration images and the original network's outputs for the images of the rounding.

    Attributes:
        original: The uncompressed network.
        images: Training images of the rounding, without labels, (N, 3, H, W), on the device.
        all_images: All calibration images of this rank; ``images`` are the first of them.
        outputs: The original's outputs at the sampled positions of each layer.
        seeds: Layer name -> seed of its sampled positions, for the regular layers whose Hessian is not too large.
        shard: Calibration shard of this rank, of ``images``.
        all_images_shard: The same, of ``all_images``.
        sampling: Sizes of samples and chunks.
    """

    original: nn.Module
    images: Tensor
    all_images: Tensor
    outputs: OriginalOutputs
    seeds: dict[str, int]
    shard: CalibrationShard
    all_images_shard: CalibrationShard
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
        rounding_images: int = ROUNDING_IMAGES,
    ) -> OriginalPass:
        """Run the original network.

        Args:
            model: The network to be rounded: the original with series convolutions.
            original: See the attributes, like the arguments after it.
            images: All calibration images of this rank.
            seed: Seed of the sampled positions of large feature maps.
            shard: None if the rank holds all images.
            sampling: See the attributes.
            max_features: Features of the largest Hessian; layers with more, and irregular ones, are rounded to nearest.
            rounding_images: Number of ``OriginalPass.images``; several ranks use all of their images.
        """
        seeds = layer_seeds(_small_layers(model, max_features), seed)
        whole = shard or CalibrationShard.whole(len(images))
        used, part = images, whole
        if whole.total == len(images) > rounding_images:
            used, part = images[:rounding_images], CalibrationShard.whole(rounding_images)
        found = cls(original, used, images, OriginalOutputs({}, {}, {}), seeds, part, whole, sampling)
        with torch.no_grad():
            outputs = original_outputs(original, seeds, used, part, found._rounding_sampling, additions=True)
        return replace(found, outputs=outputs)

    @property
    def has_more_images(self) -> bool:
        """True if not all calibration images pass the network while it is rounded."""
        return len(self.all_images) > len(self.images)

    def absorbs(self, layer: nn.Module, name: str) -> bool:
        """Return True if a bias or the normalization after a layer absorbs a constant of its outputs."""
        return cast(Tensor | None, layer.bias) is not None or name in self.outputs.norms

    def fit(self, model: nn.Module, constrain: Constrain, hessians: Mapping[str, Tensor]) -> dict[str, float]:
        """Pass the images through a network and fit its layers; see ``basis.activations.LayerwiseFit``."""
        outputs = OriginalOutputs(dict(self.outputs.outputs), dict(self.outputs.shortcuts), self.outputs.norms)
        sampling = self._rounding_sampling
        visit = LayerwiseFit(
            model, outputs, self.seeds, self.shard, sampling, ridge=RIDGE, constrain=constrain, hessians=hessians
        )
        with torch.no_grad():
            return visit.run(self.images)

    @property
    def _rounding_sampling(self) -> SamplingConfig:
        if not self.has_more_images:
            return self.sampling
        return replace(self.sampling, positions=min(self.sampling.positions, ROUNDING_POSITIONS))


def _small_layers(model: nn.Module, max_features: int) -> Iterable[str]:
    for name, layer in stored_layers(model).items():
        if is_regular(layer) and stored_values(layer)[0].numel() <= max_features:
            yield name
