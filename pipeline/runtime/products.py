"""The precision of products of float32 numbers in PyTorch, on which the last bits of results depend.

PyTorch has a setting for each kind of operator, such as ``torch.backends.cudnn.conv.fp32_precision``, and older ones:
``torch.set_float32_matmul_precision`` and ``torch.backends.cudnn.allow_tf32``. It refuses to return an older one that
contradicts the others. A contradiction that stays also ends ``torch.export`` with an error.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import torch

_PLACES: Final = (
    *("backends", "backends.cudnn", "backends.mkldnn", "backends.cuda.matmul", "backends.cudnn.conv"),
    *("backends.cudnn.rnn", "backends.mkldnn.matmul", "backends.mkldnn.conv", "backends.mkldnn.rnn"),
)
"""Objects of torch with a setting, the general ones first: they also set those inside them."""
_MATMUL: Final = "float32_matmul_precision"
_CUDNN: Final = "backends.cudnn.allow_tf32"


def product_precisions() -> dict[str, str | bool]:
    """Return all settings of the precision that this version of PyTorch has, for ``set_product_precisions``."""
    settings = {place: getattr(_place(place), "fp32_precision", None) for place in _PLACES}
    found = {_MATMUL: _matmul_precision(), _CUDNN: _cudnn_allows_tf32(), **settings}
    return {name: setting for name, setting in found.items() if setting is not None}


def set_product_precisions(wanted: Mapping[str, str | bool]) -> None:
    """Set the precision as ``product_precisions`` returned it, before or in another process."""
    # The older settings are first, because they also set some of the others.
    if _MATMUL in wanted and _matmul_precision() != wanted[_MATMUL]:
        torch.set_float32_matmul_precision(str(wanted[_MATMUL]))
    if _CUDNN in wanted and _cudnn_allows_tf32() != wanted[_CUDNN]:
        torch.backends.cudnn.allow_tf32 = bool(wanted[_CUDNN])
    for place in _PLACES:
        if place in wanted and _place(place).fp32_precision != wanted[place]:
            _place(place).fp32_precision = wanted[place]


def _place(name: str) -> Any:
    """Return an object of torch; None if this version has none of this name."""
    found: Any = torch
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _matmul_precision() -> str | None:
    with suppress(RuntimeError):
        return torch.get_float32_matmul_precision()
    return None


def _cudnn_allows_tf32() -> bool | None:
    with suppress(RuntimeError):
        return bool(torch.backends.cudnn.allow_tf32)
    return None
