"""The uncompressed network as a teacher that is asked once for each batch, however many networks learn from it."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from basis.preconditioning import inverse_input_covariance
from basis.shard import CalibrationShard
from pipeline.models.digest import state_digest
from pipeline.runtime.device import Accelerator
from pipeline.training.features import FeatureHooks, feature_points

# Answers kept at the most: of some thousand small images. The rest is computed anew whenever it is asked for.
MEMORY_BYTES = 512_000_000


@dataclass(frozen=True)
class TeacherOutput:
    """What the teacher says of a batch.

    Attributes:
        logits: (N, classes).
        features: The outputs of its stages: see ``pipeline.training.features``.
    """

    logits: Tensor
    features: tuple[Tensor, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return self.logits.nbytes + sum(feature.nbytes for feature in self.features)

    def to(self, device: torch.device) -> "TeacherOutput":
        """The same on another device."""
        return TeacherOutput(self.logits.to(device), tuple(feature.to(device) for feature in self.features))


class Teacher:
    """Answers for the augmented batches of an epoch, which its seed and the batch size decide.

    Every combination of config, basis and width trains on the same batches, so where the data are small all but the
    first find the answers here. They are the numbers that computing them again would give.

    Attributes:
        points: Names of the modules whose outputs are its features.

    Args:
        network: In evaluation mode, on the accelerator's device.
        accelerator: Device and precision.
        memory: Bytes of answers to keep.
    """

    def __init__(self, network: nn.Module, accelerator: Accelerator, memory: int = MEMORY_BYTES) -> None:
        """Keep no answer yet."""
        self._network, self._accelerator, self._left = network, accelerator, memory
        self._kept: defaultdict[tuple[int, int, bool], dict[int, TeacherOutput]] = defaultdict(dict)
        self.points = feature_points(network)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the network."""
        return state_digest(self._network)

    @torch.no_grad()
    def answer(
        self, images: Tensor, *, epoch_seed: int, batch_size: int, batch: int, features: bool = True
    ) -> TeacherOutput:
        """What the teacher says of one batch of the training images.

        Args:
            images: The batch, (N, 3, H, W), augmented, on the device.
            epoch_seed: The seed of the epoch's order and augmentation.
            batch_size: Images of a full batch.
            batch: Number of the batch in the epoch, from 0.
            features: Whether its features are wanted, too.

        Returns:
            Logits and features on the images' device, in the precision of training.
        """
        kept = self._kept[epoch_seed, batch_size, features]
        if batch in kept:
            return kept[batch].to(images.device)
        taps = FeatureHooks(self.points if features else ())
        with taps.on(self._network), self._accelerator.autocast():
            logits: Tensor = self._network(images)
            answer = TeacherOutput(logits, taps.take())
        if answer.nbytes <= self._left:
            self._left -= answer.nbytes
            kept[batch] = answer.to(torch.device("cpu"))
        return answer

    def inverse_input_covariance(
        self, model: nn.Module, images: Tensor, portion: CalibrationShard | None = None
    ) -> dict[str, Tensor]:
        """What the layers of a student are given in the teacher: see ``basis.preconditioning``."""
        return inverse_input_covariance(model, self._network, images, shard=portion)
