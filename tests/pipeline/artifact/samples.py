"""Small artifacts for the tests, valid and with chosen content."""

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from basis.layers import stored_tensor_name, stored_values
from basis.parametric.conv import swap_parametric
from basis.swap import swap_convolutions
from pipeline.artifact import Identity, serialize
from pipeline.artifact.codec import CODES, TABLE, table_of
from pipeline.artifact.container import join, split
from pipeline.artifact.groups import blocks_of, groups_of, layout
from pipeline.artifact.record import NetworkRecord, record_network
from quant import entropy
from quant.backends import get_backend
from quant.formats import QuantizedTensor
from quant.network import quantize_network
from quant.schemes import StoredTensor, get_format
from quant.stepped import LARGEST_INTEGER, SteppedTensor
from tests.support.networks import tiny_network

IDENTITY = Identity("tiny_net:make", 4, ("a", "b", "c", "d"), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), (12, 12))
ORDERS = {"0.0": (3, 3), "1.0": (2, 2), "2.0": (3, 3)}


def compressed(
    bits: int = 4, basis: str = "cosine", scheme: str = "int", network: Callable[[], nn.Module] = tiny_network
) -> NetworkRecord:
    """A small network's record; integers of series have a factor for each term."""
    model = swap_convolutions(network(), ORDERS, basis)
    values = quantize_network(model, get_format(scheme, bits), get_backend("brevitas"))
    for name, (height, width) in ORDERS.items():
        if isinstance(stored := values[name], QuantizedTensor):
            exponents = torch.arange(-4, height * width - 4, dtype=torch.int8).reshape(height, width)
            values[name] = replace(stored, terms=exponents)
    return record_network(model, values)


def parametric(bits: int, family: str, scheme: str = "int") -> NetworkRecord:
    """A small network's record with kernels of a parametric family."""
    model = swap_parametric(tiny_network(), list(ORDERS), family)
    return record_network(model, quantize_network(model, get_format(scheme, bits), get_backend("brevitas")))


def stepped(*, per_term: bool = True, network: Callable[[], nn.Module] = tiny_network) -> NetworkRecord:
    """A small network's record of integers of any size; with outliers, and a layer and a term of zeros."""
    model = swap_convolutions(network(), ORDERS, "chebyshev")
    values: dict[str, StoredTensor] = {}
    for number, (name, module) in enumerate(model.named_modules()):
        if stored_tensor_name(module) is None:
            continue
        shape = stored_values(module).shape
        generator = torch.Generator().manual_seed(number)
        integers = (3 * torch.randn(shape, generator=generator) * (number != 7)).to(torch.int32)
        integers.view(-1)[0] = LARGEST_INTEGER if number == 1 else 0
        exponents = torch.tensor(-40, dtype=torch.int16)
        if per_term and len(shape) == 4:
            integers[:, :, -1, -1] = 0
            exponents = -40 - torch.arange(shape[2] * shape[3], dtype=torch.int16).reshape(shape[2:])
        values[name] = SteppedTensor(integers, exponents)
    return record_network(model, values)


def edited(path: Path, change: Callable[[dict[str, Any], dict[str, Any], dict[str, torch.Tensor]], object]) -> Path:
    """Write a small artifact whose header, table and sections a test has changed, with a right checksum."""
    contents = split(BytesIO(serialize(compressed(), IDENTITY)))
    header, sections = json.loads(contents.text), contents.sections
    table = json.loads(zlib.decompress(bytes(sections.pop(TABLE).numpy().data)))
    change(header, table, sections)
    path.write_bytes(join(json.dumps(header), {**sections, TABLE: section(zlib.compress(json.dumps(table).encode()))}))
    return path


def recoded(path: Path, record: NetworkRecord, change: Callable[[dict[str, list[NDArray[np.int32]]]], object]) -> Path:
    """Write an artifact whose groups, by kind, a test has changed in place; blocks are of the kind ``integers``."""
    contents = split(BytesIO(serialize(record, IDENTITY)))
    groups: dict[str, list[NDArray[np.int32]]] = {}
    for place, values in zip(layout(table_of(record)), groups_of(record), strict=True):
        groups.setdefault(place.kind, []).append(values)
    blocks = blocks_of(record)
    groups.setdefault("integers", []).extend(blocks)
    change(groups)
    remaining = {kind: iter(values) for kind, values in groups.items()}
    changed = [next(remaining[place.kind]) for place in layout(table_of(record))]
    stream = entropy.encode(changed, list(remaining["integers"]))
    path.write_bytes(join(contents.text, {**contents.sections, CODES: section(stream)}))
    return path


def section(content: bytes) -> torch.Tensor:
    """Return bytes as a section."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
