"""Any record comes back from its bytes; the bytes are accounted for; the header's copy of a network is exact."""

from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from basis.errors import CompressionError
from pipeline.artifact import Identity, serialize
from pipeline.artifact.batchnorm import NormalizationRecord
from pipeline.artifact.codec import decode
from pipeline.artifact.container import DTYPES, split
from pipeline.artifact.header import read_header
from pipeline.artifact.loading import identity_of
from pipeline.artifact.record import LayerRecord, NetworkRecord
from pipeline.artifact.schemes import format_named
from pipeline.artifact.summary import summarize
from quant.formats import IntFormat, QuantizedTensor
from quant.grid import MAX_EXPONENT, MIN_EXPONENT, grid_values
from quant.minifloat import MinifloatFormat, MinifloatTensor
from quant.schemes import StoredTensor
from tests.pipeline.artifact.samples import IDENTITY, compressed

NAMES = st.text(min_size=1, max_size=12)
SIZES = st.integers(1, 5)


@st.composite
def layers(draw: st.DrawFn, name: str) -> LayerRecord:
    bits, series = draw(st.integers(2, 8)), draw(st.booleans())
    shape = tuple(draw(st.lists(SIZES, min_size=4 if series else 1, max_size=4)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    values: StoredTensor
    if draw(st.booleans()):
        half = 2 ** (bits + 7)
        patterns = torch.randint(-half, half, shape, generator=generator, dtype=torch.int16)
        values = MinifloatTensor(patterns, MinifloatFormat(bits))
    else:
        limit = IntFormat(bits).qmax
        integers = torch.randint(-limit, limit + 1, shape, generator=generator, dtype=torch.int8)
        exponents = st.integers(MIN_EXPONENT, MAX_EXPONENT)
        scales = torch.tensor(draw(st.lists(exponents, min_size=shape[0], max_size=shape[0])))
        terms = torch.randint(-127, 128, shape[2:], generator=generator, dtype=torch.int8) if series else None
        values = QuantizedTensor(integers, grid_values(scales), IntFormat(bits), terms)
    if not series:
        return LayerRecord(name, values)
    order = (shape[2], shape[3])
    kernel = (order[0] + draw(st.integers(0, 4)), order[1] + draw(st.integers(0, 4)))
    return LayerRecord(name, values, draw(st.sampled_from(["cosine", "chebyshev"])), order, kernel)


@st.composite
def records(draw: st.DrawFn) -> NetworkRecord:
    names = draw(st.lists(NAMES, unique=True, max_size=9))
    third = len(names) // 3
    normalizations = []
    for name in names[third : 2 * third]:
        dtype = draw(st.sampled_from([torch.float16, torch.float32]))
        normalizations.append(NormalizationRecord(name, *torch.randn(2, draw(SIZES)).to(dtype)))
    floats = {}
    for name in names[2 * third :]:
        shape, dtype = draw(st.lists(st.integers(0, 4), max_size=4)), draw(st.sampled_from(list(DTYPES.values())))
        floats[name] = (torch.randn(shape) * 100).to(dtype)
    return NetworkRecord(tuple(draw(layers(name)) for name in names[:third]), floats, tuple(normalizations))


@settings(deadline=None, max_examples=80)
@given(record=records())
def test_any_record_comes_back(record: NetworkRecord) -> None:
    content = serialize(record, IDENTITY)
    assert content == serialize(record, IDENTITY)
    again = decode(split(BytesIO(content)))[1]
    assert list(again.floats) == list(record.floats)
    for name, tensor in record.floats.items():
        assert again.floats[name].dtype == tensor.dtype
        assert torch.equal(again.floats[name], tensor)
    assert [n.name for n in again.normalizations] == [n.name for n in record.normalizations]
    for read, written in zip(again.normalizations, record.normalizations, strict=True):
        assert read.weight.dtype == written.weight.dtype
        assert torch.equal(read.weight, written.weight)
        assert torch.equal(read.bias, written.bias)
    for read, written in zip(again.layers, record.layers, strict=True):
        assert (read.name, read.basis, read.order, read.kernel) == (
            written.name,
            written.basis,
            written.order,
            written.kernel,
        )
        assert read.values.format == written.values.format
        assert torch.equal(read.values.integers, written.values.integers)
        assert (read.values.scale is None) == (written.values.scale is None)
        if read.values.scale is not None and written.values.scale is not None:
            assert torch.equal(read.values.scale, written.values.scale)


@settings(deadline=None, max_examples=30)
@given(record=records(), share=st.floats(0, 1, exclude_max=True), extra=st.binary(min_size=1, max_size=9))
def test_no_part_of_a_file_and_no_longer_file_is_taken_for_it(
    record: NetworkRecord, share: float, extra: bytes
) -> None:
    content = serialize(record, IDENTITY)
    for wrong in (content[: int(share * len(content))], content + extra, extra + content):
        with pytest.raises(CompressionError):
            split(BytesIO(wrong))


identities = st.builds(
    lambda model, names, mean, std, size: Identity(f"{model}:make", len(names), tuple(names), mean, std, size),
    NAMES,
    st.lists(st.text(max_size=20), min_size=1, max_size=6),
    st.tuples(*[st.floats(-9, 9)] * 3),
    st.tuples(*[st.floats(1e-9, 9)] * 3),
    st.tuples(SIZES, SIZES),
)


@settings(deadline=None, max_examples=30)
@given(identity=identities)
def test_any_identity_comes_back(identity: Identity) -> None:
    header = read_header(split(BytesIO(serialize(compressed_once(), identity))).text)
    assert identity_of(header) == identity
    assert (header.builder, header.arguments) == ("import", {"num_classes": identity.classes})


@cache
def compressed_once() -> NetworkRecord:
    return compressed()


def test_the_summary_accounts_for_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(serialize(compressed(3), IDENTITY))
    summary = summarize(path)
    assert summary.size == path.stat().st_size
    assert all(size > 0 for size in summary.kinds.values())
    assert [layer.name for layer in summary.layers] == ["0.0", "1.0", "1.2", "2.0", "5"]


def test_an_unknown_number_format_is_refused() -> None:
    with pytest.raises(CompressionError, match="number format 'posit' is unknown; allowed: int, minifloat"):
        format_named("posit", 4)
