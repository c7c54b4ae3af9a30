"""Number formats, bit packing, rounding and counting; Brevitas and torch.ao load only when a backend is asked for."""

from quant.backends import BACKENDS, Backend, get_backend
from quant.counting import compressible_params, count_params, poster_size_mb
from quant.fake_quantizer import FakeQuantizer
from quant.formats import IntFormat, QuantizedTensor
from quant.packing import pack, unpack

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
    "unpack",
]
