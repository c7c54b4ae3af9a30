"""The uncompressed network as a teacher that is asked once for each batch, however many networks learn from it."""

from collections import defaultdict
from functools import cached_property

import torch
from torch import Tensor, nn

from pipeline.acceleration import Accelerator
from pipeline.store.keys import state_digest

# Answers kept at the most: about 400 epochs of CIFAR-10. Where more are asked for, the rest is computed anew each time.
MEMORY_BYTES = 512_000_000


class Teacher:
    """Answers for the augmented batches of an epoch, which its seed and the batch size decide.

    Every combination of config, basis and width trains on the same batches, so all but the first find the answers
    here. They are the numbers that computing them again would give.

    Args:
        network: In evaluation mode, on the accelerator's device.
        accelerator: Device and precision.
        memory: Bytes of answers to keep.
    """

    def __init__(self, network: nn.Module, accelerator: Accelerator, memory: int = MEMORY_BYTES) -> None:
        """Keep no answer yet."""
        self._network, self._accelerator, self._left = network, accelerator, memory
        self._kept: defaultdict[tuple[int, int], dict[int, Tensor]] = defaultdict(dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the network."""
        return state_digest(self._network)

    @torch.no_grad()
    def logits(self, images: Tensor, *, epoch_seed: int, batch_size: int, batch: int) -> Tensor:
        """The teacher's logits for one batch of the training images.

        Args:
            images: The batch, (N, 3, H, W), augmented, on the device.
            epoch_seed: The seed of the epoch's order and augmentation.
            batch_size: Images of a full batch.
            batch: Number of the batch in the epoch, from 0.

        Returns:
            (N, classes), on the images' device, in the precision of training.
        """
        kept = self._kept[epoch_seed, batch_size]
        if batch in kept:
            return kept[batch].to(images.device)
        with self._accelerator.autocast():
            answer: Tensor = self._network(images)
        size = answer.numel() * answer.element_size()
        if size <= self._left:
            self._left -= size
            kept[batch] = answer.cpu()
        return answer
