"""Predictions of a network on the test images, and their comparison with the original's."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Predictions:
    """The predictions of a network.

    Attributes:
        classes: The predicted classes, (images,), int32.
        right: True for each correct prediction, (images,), bool.
    """

    classes: Tensor
    right: Tensor

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> "Predictions":
        """Return the predictions of an entry of the store: the inverse of ``tensors``."""
        return Predictions(tensors["predictions"], tensors["right"])

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors for an entry of the store."""
        return {"predictions": self.classes, "right": self.right}


@dataclass(frozen=True)
class Comparison:
    """Predictions of two networks on the same images.

    Attributes:
        agreement: Share of images with the same prediction, in percent.
        lost: Number of images that only the original classifies correctly.
        gained: Number of images that only the other network classifies correctly.
    """

    agreement: float
    lost: int
    gained: int


def compare(original: Predictions, other: Predictions) -> Comparison:
    """Compare the predictions of a network with the original's, image by image."""
    same = int((original.classes == other.classes).sum())
    lost, gained = int((original.right & ~other.right).sum()), int((other.right & ~original.right).sum())
    return Comparison(100 * same / len(original.classes), lost, gained)
