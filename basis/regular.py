"""Mark layers whose outputs do not depend on input and weight as in ``nn.Conv2d`` or ``nn.Linear``."""

from typing import Final

from torch import nn

_MARK: Final = "seriesquant_irregularity"


def irregularity(module: nn.Module) -> str | None:
    """Return the reason why a layer may neither be replaced nor fitted; None for a regular layer.

    A convolution or linear layer is regular if its class has the forward of ``nn.Conv2d`` or ``nn.Linear``, and if
    ``mark_irregular`` has not named a reason against it. A subclass with a forward of its own may read other positions.
    """
    marked: str | None = vars(module).get(_MARK)
    if marked is not None:
        return marked
    for kind in (nn.Conv2d, nn.Linear):
        if isinstance(module, kind) and not _has_forward_of(type(module), kind):
            return f"{type(module).__name__} computes its output in a way of its own"
    return None


def mark_irregular(module: nn.Module, reason: str) -> None:
    """Keep a module from being replaced or fitted. Copies of the module keep the mark.

    Args:
        module: A layer, or a batch normalization that must be stored as it is.
        reason: Explanation for the report.
    """
    vars(module)[_MARK] = reason


def _has_forward_of(own: type[nn.Module], kind: type[nn.Module]) -> bool:
    methods = ("forward", "_conv_forward") if kind is nn.Conv2d else ("forward",)
    return all(getattr(own, method) is getattr(kind, method) for method in methods)
