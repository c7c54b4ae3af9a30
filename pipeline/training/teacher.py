"""The uncompressed network as a teacher, whose outputs are computed once per batch for all students."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import torch
from torch import Tensor, nn

from basis.preconditioning import inverse_input_covariance
from basis.shard import CalibrationShard
from pipeline.models.digest import state_digest
from pipeline.runtime.device import Accelerator
from pipeline.training.features import FeatureHooks, feature_points

MEMORY_BYTES: Final = 512_000_000
"""Most bytes of outputs in memory, enough for some thousand small images. Other outputs are computed again."""

COVARIANCE_STEPS: Final = 64
"""Fewest steps for which input preconditioning is used: it gains at 70 steps, and not at 40. See docs/training.md."""


@dataclass(frozen=True)
class TeacherOutput:
    """The teacher's output for a batch.

    Attributes:
        logits: (N, classes).
        features: Module name -> output of a stage; see ``pipeline.training.features``.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return self.logits.nbytes + sum(feature.nbytes for feature in self.features.values())

    def to(self, device: torch.device) -> "TeacherOutput":
        """Copy the output to another device."""
        features = {name: feature.to(device) for name, feature in self.features.items()}
        return TeacherOutput(self.logits.to(device), features)


class Teacher:
    """The teacher's outputs for the augmented batches of an epoch.

    The epoch's seed and the batch size determine the batches, so every combination of config, basis and width trains on
    the same ones. The first student computes the outputs, and later students read them from memory while it lasts. A
    stored output equals a recomputed one.

    Attributes:
        points: Names of the modules whose outputs are the features.
        covariance_steps: Fewest steps of a training that is preconditioned by the input covariance.
        mirrored: True if the logits are means of those of the images and of their mirror images.

    Args:
        network: The uncompressed network, in evaluation mode, on the accelerator's device.
        accelerator: Device and precision.
        memory: Most bytes of outputs in memory.
        covariance_steps: See the attribute.
        mirrored: See the attribute.
    """

    def __init__(
        self,
        network: nn.Module,
        accelerator: Accelerator,
        memory: int = MEMORY_BYTES,
        covariance_steps: int = COVARIANCE_STEPS,
        mirrored: bool = False,
    ) -> None:
        self._network, self._accelerator, self._left = network, accelerator, memory
        self._kept: defaultdict[tuple[str, int, int, bool], dict[int, TeacherOutput]] = defaultdict(dict)
        self.points, self.covariance_steps, self.mirrored = feature_points(network), covariance_steps, mirrored

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the network."""
        return state_digest(self._network)

    @torch.no_grad()
    def output(
        self, images: Tensor, *, data: str, epoch_seed: int, batch_size: int, batch: int, features: bool = True
    ) -> TeacherOutput:
        """Return the teacher's output for one batch of the training images.

        Args:
            images: The batch, (N, C, H, W), augmented, on the device.
            data: Digest of the training images.
            epoch_seed: The seed of the epoch's order and augmentation.
            batch_size: Images of a full batch.
            batch: Number of the batch in the epoch, from 0.
            features: Include the features.

        Returns:
            Logits and features on the images' device, in the precision of training; logits that are means in float32.
        """
        kept = self._kept[data, epoch_seed, batch_size, features]
        if batch in kept:
            return kept[batch].to(images.device)
        hooks = FeatureHooks(self.points if features else ())
        with hooks.on(self._network), self._accelerator.autocast():
            logits: Tensor = self._network(images)
            maps = {name: feature.detach() for name, feature in hooks.take().items()}
            if self.mirrored:
                logits = (logits.float() + self._network(images.flip(3)).float()) / 2
            output = TeacherOutput(logits.detach(), maps)  # a forward may enable gradients
        if output.nbytes <= self._left:
            self._left -= output.nbytes
            kept[batch] = output.to(torch.device("cpu"))
        return output

    def inverse_input_covariance(
        self, model: nn.Module, images: Tensor, shard: CalibrationShard | None = None
    ) -> dict[str, Tensor]:
        """Invert the covariance of the layer inputs in the teacher, for the student's layers.

        Arguments and result are those of ``basis.preconditioning.inverse_input_covariance``.
        """
        return inverse_input_covariance(model, self._network, images, shard=shard)
