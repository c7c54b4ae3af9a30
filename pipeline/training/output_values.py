"""Check the values of a network's outputs before training: NaN, infinities, and other values in training mode."""

import logging

import torch
from torch import Tensor, nn

from basis.modes import evaluating, training
from pipeline.errors import OptionsError
from pipeline.models.outputs import same_outputs
from pipeline.runtime.randomness import RandomStream

logger = logging.getLogger(__name__)


def check_values(outputs: object, cause: str, allowed: str, *, evaluated: Tensor | None = None) -> None:
    """Check that outputs have no NaN and no +inf. Entries of -inf are those of masked classes, also in training.

    Args:
        outputs: Outputs of the network for some images, (N, ...); what is no tensor of floats is not checked.
        cause: The option that needs the values, for the error message.
        allowed: Alternatives, for the error message.
        evaluated: The same outputs in evaluation mode, if ``outputs`` are those of training mode.

    Raises:
        OptionsError: They have, or training mode masks other classes; the message names the first place.
    """
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        return
    masked = outputs == -torch.inf if evaluated is None else evaluated == -torch.inf
    wrong = (~outputs.isfinite() & ~(masked & (outputs == -torch.inf))).nonzero()
    if not len(wrong):
        return
    place = tuple(wrong[0].tolist())
    value = f"{outputs[place].item():+}".replace("+nan", "NaN")
    mode = "evaluation" if evaluated is None else "training"
    where = f"output {', '.join(map(str, place[1:]))} of an image" if len(place) > 1 else "the output of an image"
    raise OptionsError(
        f"{cause}: the network gives {value} as {where} in {mode} mode, so that no loss can be computed; allowed: "
        f"finite outputs, or -inf for the classes that are masked in both modes, or {allowed}"
    )


@torch.no_grad()
def warn_of_mode(network: nn.Module, images: Tensor, *, labelled: bool) -> None:
    """Warn if a network gives other outputs in training mode than in evaluation mode, for a reason of its own.

    Training compares the former with the outputs of the original in evaluation mode. Differences by random numbers or
    by the other images of a batch are usual, as of dropout and batch normalization, and are left out.

    Args:
        network: A network that is not used afterwards.
        images: (N, C, H, W), on its device.
        labelled: True if the outputs are logits, whose constant for each image has no effect.
    """
    _freeze_usual(training(network))
    stream = RandomStream(0, images.device)
    before = dict(stream.state)
    with stream.drawn_from():
        found = network(images.clone())
        alike = network(images[:1].expand_as(images).clone())
    drawn = any(not torch.equal(state, before[kind]) for kind, state in stream.state.items())
    expected = _freeze_usual(evaluating(network))(images.clone())  # a network may set its own mode
    if drawn or not all(isinstance(each, Tensor) and each.is_floating_point() for each in (found, alike, expected)):
        return
    if not same_outputs(alike[:1], found[:1]):
        return
    if labelled and expected.ndim > 1:
        found, expected = found.float().log_softmax(1), expected.float().log_softmax(1)
    if not same_outputs(found, expected):
        logger.warning(
            "the network %s gives other outputs in training mode than in evaluation mode, and neither random numbers "
            "nor batches are the reason; training compares them with those of the original in evaluation mode, and so "
            "learns other values: use a forward that does not depend on the mode",
            type(network).__name__,
        )


def _freeze_usual(network: nn.Module) -> nn.Module:
    """Set torch's normalization and dropout layers alone to evaluation mode."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase | nn.modules.dropout._DropoutNd):
            module.training = False
    return network
