"""Mark layers whose outputs do not depend on input and weight as in ``nn.Conv2d`` or ``nn.Linear``."""

from typing import Final

from torch import nn

_MARK: Final = "seriesquant_irregularity"
_PLAIN: Final = "seriesquant_plain_forward"


def irregularity(module: nn.Module) -> str | None:
    """Return the reason why a layer may neither be replaced nor fitted; None for a regular layer.

    A convolution or linear layer is regular if its class has the forward of ``nn.Conv2d`` or ``nn.Linear``. A subclass
    with a forward of its own may read other positions; it is regular if ``mark_plain`` was called. A layer for which
    ``mark_irregular`` was called is not regular.
    """
    marked: str | None = vars(module).get(_MARK)
    if marked is not None:
        return marked
    if has_own_forward(module) and _PLAIN not in vars(module):
        return f"{type(module).__name__} computes its output in a way of its own"
    return None


def has_own_forward(module: nn.Module) -> bool:
    """Return True for a convolution or linear layer whose forward is not that of ``nn.Conv2d`` or ``nn.Linear``."""
    return any(isinstance(module, kind) and not _has_forward_of(type(module), kind) for kind in (nn.Conv2d, nn.Linear))


def mark_plain(module: nn.Module) -> None:
    """State that a layer's own forward computes what that of torch's class does. Copies of the layer keep the mark."""
    vars(module)[_PLAIN] = True


def mark_irregular(module: nn.Module, reason: str) -> None:
    """Keep a module from being replaced or fitted. Copies of the module keep the mark.

    Args:
        module: A layer, or a batch normalization that must be stored as it is.
        reason: Explanation for the report.
    """
    vars(module)[_MARK] = reason


def copy_marks(marked: nn.Module, model: nn.Module) -> None:
    """Give the modules of a network the marks of the modules of its copy.

    Args:
        marked: The copy.
        model: The network, changed in place.
    """
    for source, module in zip(marked.modules(), model.modules(), strict=True):
        vars(module).update({mark: vars(source)[mark] for mark in (_MARK, _PLAIN) if mark in vars(source)})


def _has_forward_of(own: type[nn.Module], kind: type[nn.Module]) -> bool:
    methods = ("forward", "_conv_forward") if kind is nn.Conv2d else ("forward",)
    return all(getattr(own, method) is getattr(kind, method) for method in methods)
