"""Number formats, entropy coding, rounding and counting; Brevitas and torch.ao load with the first use of a backend.

The names below load on first use, so that ``quant.registry`` costs no import of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from quant.registry import BACKENDS

if TYPE_CHECKING:
    from quant.backends import Backend, get_backend
    from quant.counting import compressible_params, count_params, poster_size_mb
    from quant.fake_quantizer import FakeQuantizer
    from quant.formats import IntFormat, QuantizedTensor
    from quant.packing import pack

__all__ = [
    "BACKENDS",
    "Backend",
    "FakeQuantizer",
    "IntFormat",
    "QuantizedTensor",
    "compressible_params",
    "count_params",
    "get_backend",
    "pack",
    "poster_size_mb",
]

_HOMES = {
    "Backend": "quant.backends",
    "FakeQuantizer": "quant.fake_quantizer",
    "IntFormat": "quant.formats",
    "QuantizedTensor": "quant.formats",
    "compressible_params": "quant.counting",
    "count_params": "quant.counting",
    "get_backend": "quant.backends",
    "pack": "quant.packing",
    "poster_size_mb": "quant.counting",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
