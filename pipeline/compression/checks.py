"""Checks of the caller's batches."""

from typing import Final

import torch
from torch import Tensor
from torch.masked import MaskedTensor

from pipeline.errors import DataError

_IGNORED: Final = -100
"""Default of ``ignore_index`` of ``torch.nn.CrossEntropyLoss``."""


def check_labels(labels: Tensor, classes: int) -> None:
    """Check that labels are classes.

    Args:
        labels: Integers, (N,).
        classes: Number of classes.

    Raises:
        DataError: A label is below 0, or not below the number of classes.
    """
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= classes:
        ignored = ", without the images whose label -100 PyTorch's losses ignore" if least == _IGNORED else ""
        raise DataError(
            f"images: got labels from {least} to {most} for outputs of {classes} classes; allowed: 0 to "
            f"{classes - 1}{ignored}, or images without labels"
        )


def check_dense(what: str, tensor: Tensor) -> Tensor:
    """Return a tensor that holds its values one beside the other.

    Raises:
        DataError: It is sparse, nested, masked, of another layout, or without values.
    """
    kind = type(tensor).__name__ if isinstance(tensor, MaskedTensor) else str(tensor.layout)
    kind = "nested" if tensor.is_nested else "on the device meta, which has no values" if tensor.is_meta else kind
    if kind != str(torch.strided):
        raise DataError(f"images: got {what} in a tensor that is {kind}; allowed: dense tensors")
    return tensor


def check_finite_images(images: Tensor) -> Tensor:
    """Return images whose values are finite.

    Raises:
        DataError: A value is not finite.
    """
    # The sum is much faster, and finite unless a value is not, or the sum is too large.
    if not bool(torch.isfinite(images.sum())) and not bool(torch.isfinite(images).all()):
        raise DataError("images: got values that are not finite; allowed: finite normalized images")
    return images


def shapes_error(first: Tensor, other: Tensor) -> DataError:
    """Describe batches of images, (N, C, H, W), of two shapes, or of two numbers of channels in a training."""
    shapes = tuple(first.shape[1:]), tuple(other.shape[1:])
    return DataError(
        f"images: got batches of images of the shapes {shapes[0]} and {shapes[1]}; allowed: one shape, and in a "
        "training one number of channels"
    )
