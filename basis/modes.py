"""Modes for the length of a block: evaluation, and those of a hook inside a network that runs in others."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn


def evaluating(model: nn.Module) -> nn.Module:
    """Set a network to evaluation mode and return it, also if its own ``train`` or ``eval`` returns nothing."""
    model.eval()
    return model


def training(model: nn.Module) -> nn.Module:
    """Set a network to training mode and return it; see ``evaluating``."""
    model.train()
    return model


def training_with_statistics(model: nn.Module) -> nn.Module:
    """Set a network to training mode, but normalizations with running statistics to evaluation mode, and return it."""
    for module in training(model).modules():
        if getattr(module, "running_mean", None) is not None:
            module.eval()
    return model


@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """Set models to eval mode; restore the mode of each module on exit, also after an error.

    A module that was in eval mode inside a training model stays in eval mode. A frozen TorchScript module has no mode.

    Args:
        models: Networks, changed in place.

    Example:
        >>> with evaluation_mode(net), torch.no_grad():
        ...     logits = net(images)
    """
    training = [module for model in models for module in model.modules() if getattr(module, "training", False)]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def without_autocast(device: torch.device) -> Iterator[None]:
    """Compute as written in a hook, even if the network runs its layers under ``torch.autocast``.

    Args:
        device: The device that computes.
    """
    with torch.autocast(device.type, enabled=False):
        yield


def unobserved() -> AbstractContextManager[None]:
    """Hide calls of torch in a hook from every ``TorchFunctionMode``: thousands of them would take a second."""
    hidden: AbstractContextManager[None] = torch._C.DisableTorchFunction()
    return hidden
