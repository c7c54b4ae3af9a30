"""A reader of artifacts written from docs/artifact.md alone: numpy and the standard library, nothing of ours."""

import decimal
import itertools
import json
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.pipeline.artifact import independent_families, independent_stream

TYPES = {"F64": "<f8", "I64": "<i8", "F32": "<f4", "I32": "<i4", "F16": "<f2", "I16": "<i2", "I8": "i1", "U8": "u1"}
TYPES |= {"BOOL": "?", "BF16": "<u2"}


def read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The header, and every tensor of the dense network by name."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    places = json.loads(content[8 : 8 + length])
    header = json.loads(places.pop("__metadata__")["seriesquant"])
    assert header["format_version"] == 2
    header.setdefault("class_names", [str(number) for number in range(header["classes"])])
    assert struct.unpack("<I", content[-4:]) == (zlib.crc32(content[:-4]),)
    sections = {}
    for name, place in places.items():
        start, end = (8 + length + offset for offset in place["data_offsets"])
        sections[name] = content[start:end]
    table = json.loads(zlib.decompress(sections.pop("table")))
    sections.pop("check")
    tensors = coded(table, sections.pop("codes", b""))
    for entry in table.get("tensors", []):
        dtype, section = np.dtype(TYPES[entry["dtype"]]), f"tensors.{entry['dtype']}"
        size = math.prod(entry["shape"]) * dtype.itemsize
        tensors[entry["name"]] = np.frombuffer(sections[section][:size], dtype).reshape(entry["shape"])
        sections[section] = sections[section][size:]
    assert not any(sections.values())
    return header, tensors


def coded(table: dict, stream: bytes) -> dict[str, np.ndarray]:
    layers, normalizations = table.get("layers", []), table.get("normalizations", [])
    biased = [layer for layer in layers if layer.get("bias")]
    vectors = [layer["shape"][0] for layer in biased] + [each["channels"] for each in normalizations] * 2
    counts = [sum(exponent_count(layer) for layer in layers), sum(factor_count(layer) for layer in layers)]
    for layer in layers:
        counts += group_counts(layer)
    counts += [len(vectors), len(vectors), *vectors]
    shapes = [block_shape(layer) for layer in layers if layer["scheme"] != "minifloat"]
    stored = [count for count in counts if count]
    found_groups, found_blocks = independent_stream.decode(stream, stored, shapes) if stored or shapes else ([], [])
    present, blocks = iter(found_groups), iter(found_blocks)
    groups = (next(present) if count else np.zeros(0, int) for count in counts)
    exponents, factors = iter(np.cumsum(next(groups)).tolist()), iter(next(groups).tolist())
    names = [layer["name"] if layer.get("named_tensor") else f"{layer['name']}.weight" for layer in layers]
    weights = (weight(layer, groups, blocks, exponents, factors) for layer in layers)
    tensors = dict(zip(names, weights, strict=True))
    steps, bases = np.cumsum(next(groups)).tolist(), np.cumsum(next(groups)).tolist()
    values = iter([to_float(next(groups) + base) * grid(step) for step, base in zip(steps, bases, strict=True)])
    tensors |= {f"{layer['name']}.bias": next(values) for layer in biased}
    for part, each in itertools.product(("weight", "bias"), normalizations):
        tensors[f"{each['name']}.{part}"] = next(values)
    for each in normalizations:
        tensors[f"{each['name']}.running_mean"] = np.zeros(each["channels"], np.float32)
        tensors[f"{each['name']}.running_var"] = np.ones(each["channels"], np.float32)
    return tensors


def terms(layer: dict) -> int:
    return math.prod(layer["shape"][2:]) if len(layer["shape"]) == 4 else 1


def exponent_count(layer: dict) -> int:
    return terms(layer) if layer["scheme"] == "stepped" and layer.get("terms") else 1


def factor_count(layer: dict) -> int:
    return terms(layer) if layer["scheme"] == "int" and layer.get("terms") else 0


def group_counts(layer: dict) -> list[int]:
    count = math.prod(layer["shape"])
    if layer["scheme"] == "minifloat":
        return [count, count]
    return [layer["shape"][0]] if layer["scheme"] == "int" else []


def block_shape(layer: dict) -> tuple[int, int, int]:
    count, rows = math.prod(layer["shape"]), layer["shape"][0]
    return terms(layer), rows, count // terms(layer) // rows


def weight(
    layer: dict, groups: Iterator, blocks: Iterator, exponents: Iterator[int], factors: Iterator[int]
) -> np.ndarray:
    if layer["scheme"] == "minifloat":
        found = minifloats(layer, groups, exponents)
    elif layer["scheme"] == "stepped":
        found = stepped(layer, blocks, exponents)
    else:
        found = integers(layer, groups, blocks, exponents, factors)
    if layer.get("basis") in independent_families.FAMILIES:
        return independent_families.filters(found, layer["basis"], layer["kernel"])
    return filters(found, layer) if "basis" in layer else found


def whole(layer: dict, blocks: Iterator) -> np.ndarray:
    """The integers of a block, in the stored shape."""
    return np.moveaxis(next(blocks), 0, -1).reshape(layer["shape"])


def stepped(layer: dict, blocks: Iterator, exponents: Iterator[int]) -> np.ndarray:
    steps = np.array([next(exponents) for _ in range(exponent_count(layer))])
    values = whole(layer, blocks)
    assert abs(values).max() < 2**24
    return to_float(values) * grid(steps).reshape(layer["shape"][2:] if layer.get("terms") else ())


def integers(
    layer: dict, groups: Iterator, blocks: Iterator, exponents: Iterator[int], factors: Iterator[int]
) -> np.ndarray:
    shape = layer["shape"]
    values = whole(layer, blocks)
    assert abs(values).max() < 2 ** (layer["bits"] - 1)
    scales = grid(next(groups) + next(exponents)).reshape(-1, *[1] * (len(shape) - 1))
    found = to_float(values) * scales
    if not layer.get("terms"):
        return found
    quarters = np.array([0x3F800000, 0x3F9837F0, 0x3FB504F3, 0x3FD744FD], "<u4").view("<f4")
    powers = np.array([next(factors) for _ in range(terms(layer))]).reshape(shape[2:])
    return found * (quarters[powers % 4] * np.float32(2) ** (powers // 4).astype(np.float32))


def minifloats(layer: dict, groups: Iterator, exponents: Iterator[int]) -> np.ndarray:
    bits, signed = layer["bits"], next(groups)
    exponent, mantissa = 1 + next(exponents) - abs(signed), next(groups) + 2 ** (bits - 1)
    assert exponent.min() >= 0
    assert exponent.max() <= 127
    assert mantissa.min() >= 0
    assert mantissa.max() < 2**bits
    normal = 2.0 ** (exponent - 63.0) * (1 + mantissa / 2**bits)
    sizes = np.where(exponent > 0, normal, 2.0**-62 * mantissa / 2**bits)
    return np.where(signed < 0, -sizes, sizes).astype(np.float32).reshape(layer["shape"])


def grid(exponents: np.ndarray | int) -> np.ndarray:
    exponents = np.asarray(exponents)
    octave = np.array([2 ** (k / 16) for k in range(16)]).astype(np.float32)
    return octave[exponents % 16] * np.float32(2) ** (exponents // 16).astype(np.float32)


def to_float(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def filters(values: np.ndarray, entry: dict) -> np.ndarray:
    (terms_h, terms_w), (taps_h, taps_w) = entry["shape"][2:], entry["kernel"]
    rows, columns = matrix(entry["basis"], taps_h, terms_h), matrix(entry["basis"], taps_w, terms_w)
    a = values.astype(np.float64)
    result = np.empty((*a.shape[:2], taps_h, taps_w), np.float32)
    for s in range(taps_h):
        v = [total(rows[s, i] * a[:, :, i, b] for i in range(terms_h)) for b in range(terms_w)]
        for t in range(taps_w):
            result[:, :, s, t] = total(v[b] * columns[t, b] for b in range(terms_w))
    return result


def total(products) -> np.ndarray:
    """From left to right."""
    first, *others = products
    for product in others:
        first = first + product
    return first


def matrix(basis: str, taps: int, terms: int) -> np.ndarray:
    """By the recurrence of orthogonal polynomials in the nodes: another way to the same columns."""
    with decimal.localcontext(decimal.Context(prec=120)):
        x = np.array(nodes(basis, taps), object)
        columns = [np.array([1 / decimal.Decimal(taps).sqrt()] * taps, object)]
        while len(columns) < terms:
            q = x * columns[-1]
            for other in columns[-2:]:
                q = q - (q @ other) * other
            columns.append(q / (q @ q).sqrt())
        scaled = [[int((value * 2**32).to_integral_value()) for value in column] for column in columns]
    return np.array(scaled, np.float64).T / 2.0**32


def nodes(basis: str, taps: int) -> list[decimal.Decimal]:
    places = [decimal.Decimal(2 * i - taps + 1) / max(taps - 1, 1) for i in range(taps)]  # from -1 to 1
    if basis == "chebyshev":
        return places
    pi = 4 * (4 * arctangent(5) - arctangent(239))
    return [-sine(decimal.Decimal("0.3") * pi * place) for place in places]  # cos(pi / 2 + y) = -sin y


def arctangent(n: int) -> decimal.Decimal:
    """Of 1 / n."""
    return sum(decimal.Decimal((-1) ** k) / ((2 * k + 1) * n ** (2 * k + 1)) for k in range(90))


def sine(y: decimal.Decimal) -> decimal.Decimal:
    return sum((-1) ** k * y ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(50))
