"""Any record comes back from its bytes; the bytes are accounted for; the header's copy of a network is exact."""

from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from basis.errors import CompressionError
from pipeline.artifact import Identity, plan_stream, serialize
from pipeline.artifact.batchnorm import NormalizationRecord
from pipeline.artifact.codec import decode
from pipeline.artifact.container import DTYPES, split
from pipeline.artifact.header import read_header
from pipeline.artifact.loading import identity_of
from pipeline.artifact.record import LayerRecord, NetworkRecord
from pipeline.artifact.summary import layer_bits, summarize
from quant.formats import IntFormat, QuantizedTensor
from quant.grid import MAX_EXPONENT, MIN_EXPONENT, grid_values
from quant.minifloat import MinifloatFormat, MinifloatTensor
from quant.schemes import StoredTensor
from quant.stepped import LARGEST_INTEGER, SteppedTensor
from tests.pipeline.artifact.samples import IDENTITY, compressed, stepped

NAMES = st.text(min_size=1, max_size=12)
SIZES = st.integers(1, 5)


@st.composite
def layers(draw: st.DrawFn, name: str) -> LayerRecord:
    bits, series = draw(st.integers(2, 8)), draw(st.booleans())
    shape = tuple(draw(st.lists(SIZES, min_size=4 if series else 1, max_size=4)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    values: StoredTensor
    scheme = draw(st.sampled_from(["minifloat", "int", "stepped"]))
    if scheme == "minifloat":
        half = 2 ** (bits + 7)
        patterns = torch.randint(-half, half, shape, generator=generator, dtype=torch.int16)
        values = MinifloatTensor(patterns, MinifloatFormat(bits))
    elif scheme == "stepped":
        integers = draw(st.sampled_from([1, 5, LARGEST_INTEGER])) * (2 * torch.rand(shape, generator=generator) - 1)
        steps = torch.randint(
            -1600, 1601, draw(st.sampled_from([(), shape[2:]])) if series else (), generator=generator
        )
        values = SteppedTensor(integers.round().to(torch.int32), steps.to(torch.int16))
    else:
        limit = IntFormat(bits).qmax
        integers = torch.randint(-limit, limit + 1, shape, generator=generator, dtype=torch.int8)
        exponents = st.integers(MIN_EXPONENT, MAX_EXPONENT)
        scales = torch.tensor(draw(st.lists(exponents, min_size=shape[0], max_size=shape[0])))
        terms = torch.randint(-127, 128, shape[2:], generator=generator, dtype=torch.int8) if series else None
        values = QuantizedTensor(integers, grid_values(scales), IntFormat(bits), terms)
    bias = vector(shape[0], generator) if draw(st.booleans()) else None
    if not series:
        return LayerRecord(name, values, bias=bias)
    order = (shape[2], shape[3])
    kernel = (order[0] + draw(st.integers(0, 4)), order[1] + draw(st.integers(0, 4)))
    return LayerRecord(name, values, draw(st.sampled_from(["cosine", "chebyshev"])), order, kernel, bias)


def vector(count: int, generator: torch.Generator) -> SteppedTensor:
    integers = torch.randint(-LARGEST_INTEGER, LARGEST_INTEGER + 1, (count,), generator=generator)
    exponent = torch.randint(-1600, 1601, (), generator=generator)
    return SteppedTensor(integers.to(torch.int32), exponent.to(torch.int16))


def equal(read: StoredTensor | None, written: StoredTensor | None) -> bool:
    if read is None or written is None:
        return read is written
    assert read.format == written.format
    parts = [[values for values in vars(each).values() if isinstance(values, torch.Tensor)] for each in (read, written)]
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(*parts, strict=True))


@st.composite
def records(draw: st.DrawFn) -> NetworkRecord:
    names = draw(st.lists(NAMES, unique=True, max_size=9))
    third = len(names) // 3
    normalizations = []
    for name in names[third : 2 * third]:
        channels = draw(SIZES)
        normalizations.append(NormalizationRecord(name, *(vector(channels, torch.Generator()) for _ in range(2))))
    floats = {}
    for name in names[2 * third :]:
        shape, dtype = draw(st.lists(st.integers(0, 4), max_size=4)), draw(st.sampled_from(list(DTYPES.values())))
        floats[name] = (torch.randn(shape) * 100).to(dtype)
    return NetworkRecord(tuple(draw(layers(name)) for name in names[:third]), floats, tuple(normalizations))


@settings(max_examples=80)
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
        assert equal(read.weight, written.weight)
        assert equal(read.bias, written.bias)
    for layer, other in zip(again.layers, record.layers, strict=True):
        assert (layer.name, layer.basis, layer.order, layer.kernel) == (
            other.name,
            other.basis,
            other.order,
            other.kernel,
        )
        assert equal(layer.values, other.values)
        assert equal(layer.bias, other.bias)


@settings(max_examples=30)
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


@settings(max_examples=30)
@given(identity=identities)
def test_any_identity_comes_back(identity: Identity) -> None:
    header = read_header(split(BytesIO(serialize(compressed_once(), identity))).text)
    assert identity_of(header) == identity
    assert (header.builder, header.arguments) == ("import", {"num_classes": identity.classes})


@cache
def compressed_once() -> NetworkRecord:
    return compressed()


@pytest.mark.parametrize("record", [compressed(3), compressed(4, scheme="minifloat"), stepped()])
def test_the_summary_accounts_for_every_byte(tmp_path: Path, record: NetworkRecord) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(serialize(record, IDENTITY))
    summary = summarize(path)
    assert summary.size == path.stat().st_size
    assert list(summary.layers) == ["0.0", "1.0", "1.2", "2.0", "5"]
    assert sum(bits.integers for bits in summary.layers.values()) / 8 == pytest.approx(summary.kinds["integers"], abs=1)
    estimated = layer_bits(record, plan_stream(record))
    for name, bits in summary.layers.items():
        assert bits.integers == pytest.approx(estimated[name].integers, rel=0.05)


def test_a_large_kernel_of_zeros_can_be_written():
    zeros = SteppedTensor(torch.zeros(3, 1, 11, 11, dtype=torch.int32), torch.zeros(11, 11, dtype=torch.int16))
    content = serialize(NetworkRecord((LayerRecord("conv", zeros),), {}), IDENTITY)
    assert torch.equal(decode(split(BytesIO(content)))[1].layers[0].values.integers, zeros.integers)
