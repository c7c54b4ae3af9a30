"""Formats by the name of their scheme, and what is stored of a tensor."""

import pytest
import torch

from basis.errors import CompressionError
from quant.formats import IntFormat, QuantizedTensor
from quant.minifloat import MinifloatFormat, MinifloatTensor
from quant.schemes import get_format, stored_tensor


def test_a_scheme_and_a_width_name_a_format() -> None:
    assert get_format("int", 4) == IntFormat(4)
    assert get_format("minifloat", 4) == MinifloatFormat(4)
    assert (get_format("int", 4).stored_bits, get_format("minifloat", 4).stored_bits) == (4, 12)


def test_unknown_schemes_and_widths_are_refused() -> None:
    with pytest.raises(CompressionError, match=r"'float'.*allowed.* int, minifloat"):
        get_format("float", 4)
    with pytest.raises(CompressionError, match="allowed: integers 2 to 8"):
        get_format("minifloat", 9)


def test_parts_make_the_tensor_of_their_format() -> None:
    integers, patterns = torch.ones(2, 3, dtype=torch.int8), torch.ones(2, 3, dtype=torch.int16)
    assert isinstance(stored_tensor(integers, torch.ones(2), IntFormat(4)), QuantizedTensor)
    assert isinstance(stored_tensor(patterns, None, MinifloatFormat(4)), MinifloatTensor)
    with pytest.raises(CompressionError, match=r"\bint .*no scale.*allowed.* one"):
        stored_tensor(integers, None, IntFormat(4))
    with pytest.raises(CompressionError, match=r"minifloat .*a scale.*allowed.* none"):
        stored_tensor(patterns, torch.ones(2), MinifloatFormat(4))
