"""Find tensors that a network computes from its parameters once and keeps."""

from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pipeline.errors import OptionsError
from pipeline.models.checks.registration import OWN, outputs_of
from pipeline.models.outputs import same_outputs
from pipeline.models.preparation import plain_copy

_ABSENT = object()


@torch.no_grad()
def refuse_kept_results(model: nn.Module, images: Tensor) -> None:
    """Check that the outputs of a network follow its parameters.

    A forward may keep what it computes from a weight, such as normalized prototypes, in a plain attribute, and use it
    again in later passes. The compressed network would then compute with the original's weights. In a copy with other
    parameters, each attribute with tensors is emptied or removed, and so is each ``functools.cached_property``. If the
    forward fills it again, and the outputs are others, it stood for the old parameters.

    Args:
        model: The network, which has run in evaluation mode.
        images: Some images, on its device.

    Raises:
        OptionsError: An attribute keeps such a result; the message names it.
    """
    kept = [
        (path, attribute)
        for path, module in model.named_modules()
        for attribute in sorted(vars(module).keys() - OWN)
        if _holds_tensors(vars(module)[attribute])
        or isinstance(getattr(type(module), attribute, None), cached_property)
    ]
    if not kept:
        return
    trial = plain_copy(model)
    generator = torch.Generator().manual_seed(0)
    for parameter in trial.parameters():
        if parameter.is_floating_point():
            parameter.mul_((0.5 + torch.rand(parameter.shape, generator=generator)).to(parameter))
    try:
        expected = outputs_of(trial, images)
    except Exception:  # code of users may refuse such parameters
        return
    for path, attribute in kept:
        if not _same_without(trial, trial.get_submodule(path), attribute, images, expected):
            where = ".".join(filter(None, (path, attribute)))
            raise OptionsError(
                f"the network {type(model).__name__} keeps in {where!r} what it computes from its parameters, and uses "
                "it again when they have changed; allowed: a forward in evaluation mode that computes it in each pass"
            )


def _same_without(trial: nn.Module, module: nn.Module, attribute: str, images: Tensor, expected: Tensor) -> bool:
    """Return False if a forward fills the emptied or absent attribute again and gives other outputs.

    ``functools.cached_property`` and forwards that use ``hasattr`` compute the value where the attribute is absent.
    """
    value = vars(module)[attribute]
    for empty in (None, *([type(value)()] if type(value) in (dict, list) else []), _ABSENT):
        vars(module)[attribute] = empty
        if empty is _ABSENT:
            del vars(module)[attribute]
        try:
            found = outputs_of(trial, images)
        except Exception:  # a constant of the forward, which code of users needs
            continue
        finally:
            filled, vars(module)[attribute] = vars(module).get(attribute), value
        is_filled = filled is not None if empty is _ABSENT else _holds_tensors(filled)
        return not is_filled or same_outputs(found, expected)
    return True


def _holds_tensors(value: object) -> bool:
    return any(isinstance(leaf, Tensor | nn.Module) for leaf in tree_leaves(value))
