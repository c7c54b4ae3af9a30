"""Evaluation mode for the length of a block."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """Set models to eval mode; restore the mode of each module on exit, also after an error.

    A module that was in eval mode inside a training model stays in eval mode.

    Args:
        models: Networks, changed in place.

    Example:
        >>> with evaluation_mode(net), torch.no_grad():
        ...     logits = net(images)
    """
    training = [module for model in models for module in model.modules() if module.training]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
