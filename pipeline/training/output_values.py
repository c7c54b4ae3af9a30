"""Check the values of a network's outputs before they are trained or measured: NaN and infinities."""

import torch
from torch import Tensor

from pipeline.errors import OptionsError


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
