"""A reader of artifacts written from docs/artifact.md alone: numpy and the standard library, nothing of ours."""

import decimal
import json
import math
import struct
import zlib
from pathlib import Path

import numpy as np

TYPES = {"F64": "<f8", "I64": "<i8", "F32": "<f4", "I32": "<i4", "F16": "<f2", "I16": "<i2", "I8": "i1", "U8": "u1"}
TYPES |= {"BOOL": "?", "BF16": "<u2"}


class Section:
    """Bytes that are taken from the front."""

    def __init__(self, content: bytes, dtype: str) -> None:
        self.left, self.dtype = content, np.dtype(TYPES[dtype])

    def take(self, count: int) -> np.ndarray:
        size = count * self.dtype.itemsize
        taken, self.left = self.left[:size], self.left[size:]
        return np.frombuffer(taken, self.dtype)


def read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The header, and every tensor of the dense network by name."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    places = json.loads(content[8 : 8 + length])
    header = json.loads(places.pop("__metadata__")["seriesquant"])
    assert header["format_version"] == 1
    assert struct.unpack("<I", content[-4:]) == (zlib.crc32(content[:-4]),)
    sections = {}
    for name, place in places.items():
        start, end = (8 + length + offset for offset in place["data_offsets"])
        sections[name] = Section(content[start:end], place["dtype"])
    table = json.loads(zlib.decompress(sections.pop("table").left))
    sections.pop("check")
    tensors = {f"{entry['name']}.weight": weight(entry, sections) for entry in table["layers"]}
    for entry in table["normalizations"]:
        tensors |= normalization(entry, sections[f"normalization.{entry['dtype']}"])
    for entry in table["tensors"]:
        values = sections[f"tensors.{entry['dtype']}"].take(int(np.prod(entry["shape"])))
        assert zlib.crc32(values.tobytes()) == entry["crc32"]
        tensors[entry["name"]] = values.reshape(entry["shape"])
    assert not any(section.left for section in sections.values())
    return header, tensors


def normalization(entry: dict, section: Section) -> dict[str, np.ndarray]:
    scale, shift = section.take(entry["channels"]), section.take(entry["channels"])
    assert zlib.crc32(scale.tobytes() + shift.tobytes()) == entry["crc32"]
    scale, shift = scale.astype(np.float32), shift.astype(np.float32)
    parts = {"weight": scale, "bias": shift, "running_mean": np.zeros_like(scale), "running_var": np.ones_like(scale)}
    return {f"{entry['name']}.{part}": values for part, values in parts.items()}


def weight(entry: dict, sections: dict[str, Section]) -> np.ndarray:
    values = {"int": integers, "minifloat": minifloats}[entry["scheme"]](entry, sections)
    return filters(values, entry) if "basis" in entry else values


def integers(entry: dict, sections: dict[str, Section]) -> np.ndarray:
    shape, bits = entry["shape"], entry["bits"]
    codes, stored = patterns(entry, sections, bits)
    scales = sections["scales"].take(shape[0])
    assert zlib.crc32(codes.tobytes() + scales.tobytes()) == entry["crc32"]
    powers = 2 ** np.arange(bits)
    powers[-1] *= -1  # two's complement
    values = stored @ powers
    assert abs(values).max() < 2 ** (bits - 1)
    values = values.reshape(shape).astype(np.float32) * scales.reshape(-1, *[1] * (len(shape) - 1))
    return values * factors(np.array(entry["terms"])) if "terms" in entry else values


def factors(exponents: np.ndarray) -> np.ndarray:
    quarters = np.array([0x3F800000, 0x3F9837F0, 0x3FB504F3, 0x3FD744FD], "<u4").view("<f4")
    return quarters[exponents % 4] * np.float32(2) ** (exponents // 4).astype(np.float32)


def minifloats(entry: dict, sections: dict[str, Section]) -> np.ndarray:
    bits = entry["bits"]
    codes, stored = patterns(entry, sections, bits + 8)
    assert zlib.crc32(codes.tobytes()) == entry["crc32"]
    mantissa, exponent = stored[:, :bits] @ 2 ** np.arange(bits), stored[:, bits:-1] @ 2 ** np.arange(7)
    normal = 2.0 ** (exponent - 63.0) * (1 + mantissa / 2**bits)
    sizes = np.where(exponent > 0, normal, 2.0**-62 * mantissa / 2**bits)
    return np.where(stored[:, -1], -sizes, sizes).astype(np.float32).reshape(entry["shape"])


def patterns(entry: dict, sections: dict[str, Section], width: int) -> tuple[np.ndarray, np.ndarray]:
    """A layer's codes as bytes, and as one row of bits a value, the lowest first."""
    count = int(np.prod(entry["shape"]))
    codes = sections["codes"].take(-(-count * width // 8))
    stream = np.unpackbits(codes, bitorder="little")
    assert not stream[count * width :].any()
    return codes, stream[: count * width].reshape(count, width)


def filters(values: np.ndarray, entry: dict) -> np.ndarray:
    (terms_h, terms_w), (taps_h, taps_w) = entry["order"], entry["kernel"]
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
