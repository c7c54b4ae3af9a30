"""The precision of products of float32 numbers in PyTorch, on which the last bits of results depend.

PyTorch has a setting for each kind of operator, such as ``torch.backends.cudnn.conv.fp32_precision``, and an older one
for all matrix products, ``torch.set_float32_matmul_precision``. It refuses to return the older one if only the others
were set.
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


def product_precisions() -> dict[str, str]:
    """Return all settings of the precision that this version of PyTorch has, for ``set_product_precisions``."""
    settings = {place: getattr(_place(place), "fp32_precision", None) for place in _PLACES}
    found = {place: setting for place, setting in settings.items() if setting is not None}
    older = _matmul_precision()
    return found if older is None else {**found, _MATMUL: older}


def set_product_precisions(wanted: Mapping[str, str]) -> None:
    """Set the precision as ``product_precisions`` returned it, before or in another process."""
    if _MATMUL in wanted and _matmul_precision() != wanted[_MATMUL]:
        torch.set_float32_matmul_precision(wanted[_MATMUL])  # first, because it also sets two of the others
    for place, setting in wanted.items():
        if place != _MATMUL and _place(place).fp32_precision != setting:
            _place(place).fp32_precision = setting


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
