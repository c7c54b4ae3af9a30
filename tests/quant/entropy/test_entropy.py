"""The entropy coder: exact round trips, its price, its tables, and damaged streams."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as arrays_of

from basis.errors import CompressionError
from quant.entropy import coded_sizes, decode, encode, rans, tables
from quant.entropy.bits import BitReader, BitWriter
from quant.entropy.classes import choose_classes
from quant.entropy.plan import make_plan
from quant.entropy.rans import TOTAL

INT32 = np.iinfo(np.int32)
integers = st.one_of(st.integers(-3, 3), st.integers(-300, 300), st.integers(INT32.min, INT32.max))
groups = st.lists(st.lists(integers, max_size=60).map(lambda values: np.array(values, np.int32)), max_size=8)
sides = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
blocks = st.lists(sides.flatmap(lambda shape: arrays_of(np.int32, shape, elements=integers)), max_size=4)


def round_trip(arrays, layers=()) -> bytes:
    stream = encode(arrays, layers)
    found, found_layers = decode(stream, [len(each) for each in arrays], [each.shape for each in layers])
    assert len(found) == len(arrays)
    assert len(found_layers) == len(layers)
    for expected, each in zip([*arrays, *layers], [*found, *found_layers], strict=True):
        assert each.dtype == np.int32
        np.testing.assert_array_equal(each, expected)
    return stream


def layer(seed=0, shape=(9, 32, 48), spread=0.6) -> np.ndarray:
    """A layer whose terms, rows and columns have different scales."""
    generator = np.random.default_rng(seed)
    scales = [np.exp(spread * generator.standard_normal(side)) for side in shape]
    values = generator.laplace(size=shape) * np.einsum("t,r,c->trc", *scales)
    return np.round(values).astype(np.int32)


def entropy_bytes(arrays) -> float:
    total = 0.0
    for each in arrays:
        counts = np.unique(each, return_counts=True)[1]
        total -= float((counts * np.log2(counts / counts.sum())).sum())
    return total / 8


@given(groups, blocks)
@settings(max_examples=200)
def test_any_integers_come_back(arrays, layers):
    round_trip(arrays, layers)


@given(st.integers(0, 1000), sides, st.floats(0, 2), st.integers(1, 3))
@settings(max_examples=100)
def test_layers_of_any_scales_come_back(seed, shape, spread, count):
    round_trip([], [layer(seed + number, shape, spread) for number in range(count)])


def test_classes_save_what_rows_and_columns_differ():
    layers = [layer(seed) for seed in range(3)]
    alone = len(round_trip([term.ravel() for each in layers for term in each]))
    assert len(round_trip([], layers)) < 0.92 * alone
    alike = [layer(seed, spread=0.0) for seed in range(3)]
    alone = len(round_trip([term.ravel() for each in alike for term in each]))
    assert len(round_trip([], alike)) < 1.002 * alone


def test_layers_of_large_integers_have_tables_of_their_own():
    layers = [layer(0), 1000 * layer(1), np.zeros((4, 5, 6), np.int32), np.full((1, 2, 3), -7, np.int32)]
    layers[0][3, 2, 1] = 127
    with_classes = [each is not None for each in make_plan([], layers).classes]
    assert with_classes[:2] == [True, False]
    round_trip([np.array([5], np.int32)], layers)


def test_offsets_are_those_of_the_scales():
    block = layer(0, (1, 24, 2000), spread=0.0)
    block[:, ::2] = np.round(np.random.default_rng(1).laplace(size=(12, 2000)) * 8)
    (classes,) = choose_classes([block])
    # A scale of 8 is three octaves, two classes each. The mean magnitude of the others is that of rounded values.
    apart = np.log2(np.abs(block[0, ::2]).mean() / np.abs(block[0, 1::2]).mean()) * 2
    assert np.abs(classes.rows[::2].mean() - classes.rows[1::2].mean() - apart) < 0.5
    assert np.ptp(classes.rows[::2]) <= 1


@pytest.mark.parametrize("count", [1, 2, 255, 2048, 4095, 4096, 100_000])
def test_any_number_of_symbols_fills_the_lanes(count):
    round_trip([np.random.default_rng(count).integers(-7, 8, count, dtype=np.int32), np.array([1], np.int32)])


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64])
def test_other_integer_types_are_taken(dtype):
    values = np.array([3, -4, 0, 100], dtype)
    np.testing.assert_array_equal(decode(encode([values]), [4])[0][0], values)
    block = values.reshape(1, 2, 2)
    np.testing.assert_array_equal(decode(encode([], [block]), [], [(1, 2, 2)])[1][0], block)
    many = np.random.default_rng(0).integers(-100, 101, 1000).astype(dtype)
    blocks = [np.clip(layer(), -100, 100).astype(dtype)]
    (group,), found = decode(encode([many], blocks), [1000], [blocks[0].shape])
    np.testing.assert_array_equal(group, many)
    np.testing.assert_array_equal(found[0], blocks[0])
    assert coded_sizes([many], blocks) == coded_sizes([many.astype(np.int32)], [blocks[0].astype(np.int32)])


def test_equal_integers_take_no_symbols():
    zeros = [np.zeros(100_000, np.int32)] * 50
    assert len(round_trip(zeros)) < 70


@pytest.mark.parametrize(("spread", "most"), [(0.15, 1.03), (1.0, 1.01), (30.0, 1.01)])
@pytest.mark.parametrize("draw", ["laplace", "normal"])
def test_the_price_is_the_entropy(spread, most, draw):
    generator = np.random.default_rng(0)
    arrays = [np.round(getattr(generator, draw)(0, spread, 20_000)).astype(np.int32) for _ in range(9)]
    assert len(round_trip(arrays)) <= most * entropy_bytes(arrays) + 30


def test_many_small_groups_share_tables():
    generator = np.random.default_rng(0)
    arrays = [generator.integers(-7, 8, 40, dtype=np.int32) for _ in range(200)]
    assert len(round_trip(arrays)) <= 8000 * np.log2(15) / 8 * 1.1  # beside the entropy of the source


def test_predicted_sizes_are_those_of_the_stream():
    generator = np.random.default_rng(1)
    arrays = [np.round(generator.laplace(0, s, 5000)).astype(np.int32) for s in np.geomspace(0.1, 50, 40)]
    arrays.append(np.array([INT32.max, INT32.min, 0, 0], np.int32))
    layers = [layer(0), 1000 * layer(1)]
    sizes, blocks = coded_sizes(arrays, layers)
    assert len(sizes) == len(arrays)
    assert [len(each.terms) for each in blocks] == [9, 9]
    assert blocks[0].offsets > 0
    assert blocks[1].offsets == 0
    total = sum(sizes) + sum(sum(each.terms) + each.offsets for each in blocks)
    assert total == pytest.approx(make_plan(arrays, layers).bits, rel=1e-9)
    assert len(encode(arrays, layers)) == pytest.approx(total / 8, rel=0.005)


def test_a_rare_large_integer_costs_an_escape():
    values = np.zeros(10_000, np.int32)
    values[::7] = 1
    plain = len(round_trip([values]))
    values[5000] = 2_000_000_000
    assert len(round_trip([values])) <= plain + 12


@pytest.mark.parametrize("bad", [np.array([0.5]), np.zeros((2, 2), np.int32), np.array([2**31])])
def test_other_arrays_are_refused(bad):
    with pytest.raises(CompressionError, match="entropy coding got"):
        encode([bad])
    with pytest.raises(CompressionError, match="entropy coding got"):
        encode([], [bad.reshape(1, 1, -1) if bad.dtype != np.int32 else bad])


@given(st.integers(0, 63), st.integers(0, 63), st.integers(0, 31))
@settings(max_examples=100)
def test_every_shape_has_frequencies_of_the_total(zero, ratio, curve):
    table = tables.shape(zero, ratio, curve)
    assert table.frequencies.sum() == TOTAL
    assert table.frequencies.min() == table.frequencies[-1] == 1
    one_sided, other = table.frequencies[1 - table.low : -1], table.frequencies[: -table.low][::-1]
    assert (np.diff(one_sided) <= 0).all()
    assert (one_sided != other).sum() <= 1  # what is left of the total goes to the first of the largest


@given(st.lists(st.integers(0, 63), min_size=1, max_size=300).filter(any), st.integers(-500, 500))
@settings(max_examples=100)
def test_every_explicit_table_has_frequencies_of_the_total(levels, low):
    table = tables.explicit(low, tuple(levels))
    assert table.frequencies.sum() == TOTAL
    assert ((table.frequencies[:-1] > 0) == (np.array(levels) > 0)).all()


@given(st.lists(st.integers(0, 63), min_size=1, max_size=300).filter(any), st.integers(INT32.min, INT32.max // 2))
def test_the_length_of_a_description_is_that_of_what_is_written(levels, low):
    for table in (tables.constant(low), tables.shape(5, 9, 3), tables.explicit(low, tuple(levels))):
        bits = BitWriter()
        table.write(bits)
        assert table.description_bits() == len(bits)


@given(st.lists(st.one_of(st.integers(INT32.min, INT32.max), st.integers(-5, 5))))
def test_bits_come_back(values):
    bits = BitWriter()
    bits.write(5, 3)
    for value in values:
        bits.write_integer(value)
    assert len(bits.to_bytes()) == (len(bits) + 7) // 8
    reader = BitReader(bits.to_bytes())
    assert reader.read(3) == 5
    assert [reader.read_integer() for _ in values] == values
    reader.finish()


@given(st.data())
@settings(max_examples=300)
def test_a_damaged_stream_is_refused_or_gives_integers(data):
    arrays = [np.arange(-20, 20, dtype=np.int32), np.zeros(9, np.int32), np.array([1, 1, 2, 900_000] * 30, np.int32)]
    layers = [layer(0, (2, 12, 30)), np.array([[[900_000, 1]]], np.int32)]
    stream = bytearray(encode(arrays, layers))
    kind = data.draw(st.sampled_from(["flip", "cut", "more", "counts"]))
    counts, shapes = [len(each) for each in arrays], [each.shape for each in layers]
    if kind == "flip":
        stream[data.draw(st.integers(0, len(stream) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del stream[data.draw(st.integers(0, len(stream) - 1)) :]
    elif kind == "more":
        stream += data.draw(st.binary(min_size=1, max_size=9))
    else:
        counts = data.draw(st.lists(st.integers(0, 200), max_size=5))
        shapes = data.draw(st.lists(sides, max_size=4))
    try:
        found, blocks = decode(bytes(stream), counts, shapes)
    except CompressionError:
        return
    assert [len(each) for each in found] == counts
    assert [each.shape for each in blocks] == shapes


def test_sizes_beyond_64_bits_are_refused():
    huge = b"\xff" * 8 + b"\x7f"
    with pytest.raises(CompressionError, match="claims 27670116110564327"):
        decode(bytes([0]) + huge + huge + bytes(2), [])


@pytest.mark.parametrize(
    "stream", [b"", b"\xff", bytes([0]) + b"\xff" * 20, bytes([12, 0, 0, 0, 0]), bytes([0, 0, 0, 0, 1]) + b"\0\0\1\0"]
)
def test_claims_beyond_the_stream_are_refused(stream):
    with pytest.raises(CompressionError, match="entropy-coded stream"):
        decode(stream, [])


def test_a_lane_has_at_most_65536_symbols():
    values = (np.random.default_rng(0).random(300_000) < 0.001).astype(np.int32)
    stream = encode([values])
    assert 65536 << stream[0] >= 300_000
    assert np.array_equal(decode(stream, [300_000])[0][0], values)
    with pytest.raises(CompressionError, match=r"lanes for .*allowed: .*65536"):
        decode(stream, [1 << 24])


def test_a_stream_of_very_many_tables_takes_little_memory():
    described, frequencies, sums = BitWriter(), [], []
    chosen = [tables.shape(zero, ratio, 0) for ratio in range(40) for zero in range(50)]
    for table in chosen:
        table.write(described)
        symbol = -table.low
        frequencies.append(table.frequencies[symbol])
        sums.append(table.frequencies[:symbol].sum())
    coded = rans.encode(np.array(frequencies, np.uint32), np.array(sums, np.uint32), 1)
    head = [0, *varint(len(described.to_bytes())), *varint(len(coded.words)), *varint(len(chosen)), 0]
    words = coded.states.astype("<u4").tobytes() + coded.words.astype("<u2").tobytes()
    tracemalloc.start()
    found, _ = decode(bytes(head) + described.to_bytes() + words, [1] * len(chosen))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not np.concatenate(found).any()
    assert peak < 64e6, "tables of 2^14 entries for all groups take 200 MB"


def varint(number):
    return (number & 127 | 128, number >> 7)
