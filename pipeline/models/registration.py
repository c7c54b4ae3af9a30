"""Find layers and parameters that a network keeps in plain attributes, where torch does not see them."""

from collections.abc import Iterator
from typing import Any, Final

from torch import nn

from pipeline.errors import OptionsError

_OWN: Final = frozenset(vars(nn.Module()))
"""Attributes of every module, in which torch registers its parts."""


def refuse_unregistered(model: nn.Module) -> None:
    """Check that no plain attribute holds parameters: they would be neither trained nor stored.

    References to registered layers and parameters are allowed.

    Raises:
        OptionsError: An attribute does; the message names it.
    """
    known = {id(parameter) for parameter in model.parameters()}
    for path, module in model.named_modules():
        for attribute in sorted(vars(module).keys() - _OWN):
            if not {id(parameter) for parameter in _parameters(vars(module)[attribute])} <= known:
                where = ".".join(filter(None, (path, attribute)))
                raise OptionsError(
                    f"the network {type(model).__name__} keeps layers or parameters in the plain attribute {where!r}, "
                    "so that they are in no state dict and would be missing in the file; allowed: nn.ModuleList, "
                    "nn.ModuleDict, nn.ParameterList or attributes of their own"
                )


def _parameters(value: Any, depth: int = 3) -> Iterator[nn.Parameter]:
    """Yield the parameters in a value, and in lists, tuples, sets and dicts of so many levels."""
    if isinstance(value, nn.Parameter):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.parameters()
    elif depth and isinstance(value, list | tuple | set | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _parameters(each, depth - 1)
