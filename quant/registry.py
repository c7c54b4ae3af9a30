"""The quantization backends, the number formats and the widths; imports nothing heavy.

A new backend is one entry here and the module that it names. CONTRIBUTING.md lists what a new scheme needs.
"""

from typing import Final

BACKENDS: Final = {"brevitas": "quant.brevitas_backend", "torch.ao": "quant.torch_ao_backend"}
"""Backend -> its module, a ``quant.backends.Backend``."""

SCHEMES: Final = {"int": ("quant.formats", "IntFormat"), "minifloat": ("quant.minifloat", "MinifloatFormat")}
"""Scheme -> module and class of its number format, which is built from a width in bits."""

MIN_BITS: Final = 2
MAX_BITS: Final = 8
