"""The artifact: one safetensors file with packed integers, scales, float tensors and a JSON header.

Tensors are named ``packed/LAYER`` (uint8, see ``quant.packing``), ``scale/LAYER`` (float32, one per output channel;
minifloats have none) and ``float/NAME``. The header is the metadata entry ``seriesquant``.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from basis.errors import CompressionError
from pipeline.errors import DataError
from pipeline.network_record import LayerRecord, NetworkRecord, build_network
from quant.packing import pack, unpack
from quant.schemes import get_format, stored_tensor
from reports.files import write_atomically

FORMAT_VERSION = 1
HEADER_KEY = "seriesquant"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LayerHeader(_Strict):
    """How one layer is stored; ``shape`` is that of its integers."""

    name: str
    scheme: str
    bits: int = Field(ge=2, le=8)
    shape: tuple[int, ...]
    basis: str | None = None
    order: tuple[int, int] | None = None
    kernel: tuple[int, int] | None = None


class Header(_Strict):
    """The artifact's JSON header: the model and how to build it, its inputs, and the layers."""

    format_version: int
    model: str
    classes: int = Field(ge=1)
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layers: tuple[LayerHeader, ...] = ()


@dataclass(frozen=True)
class Identity:
    """What a network is, apart from its tensors: everything in the header but the layers."""

    model: str
    classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def serialize(record: NetworkRecord, identity: Identity) -> bytes:
    """Give the artifact's bytes; the same network gives the same bytes."""
    tensors: dict[str, Tensor] = {f"float/{name}": tensor.contiguous() for name, tensor in record.floats.items()}
    for layer in record.layers:
        tensors[f"packed/{layer.name}"] = pack(layer.values.integers, layer.values.format.stored_bits)
        if layer.values.scale is not None:
            tensors[f"scale/{layer.name}"] = layer.values.scale
    header = Header(format_version=FORMAT_VERSION, layers=tuple(map(_layer_header, record.layers)), **vars(identity))
    return safetensors.torch.save(tensors, {HEADER_KEY: header.model_dump_json(exclude_none=True)})


def write_artifact(record: NetworkRecord, identity: Identity, path: Path) -> None:
    """Write an artifact atomically.

    Raises:
        OSError: The file cannot be written; what was there before is untouched.
    """
    write_atomically(path, serialize(record, identity))


def read_artifact(path: Path | str) -> tuple[NetworkRecord, Identity]:
    """Read an artifact back.

    Returns:
        The network's tensors, and what it is.

    Raises:
        DataError: The file is missing, damaged, or of another format version.
    """
    metadata, tensors = _read_file(Path(path))
    try:
        header = Header.model_validate_json(metadata[HEADER_KEY])
    except (KeyError, ValidationError) as error:
        raise DataError(f"artifact: {path} has no valid header: {_first_line(error)}") from None
    if header.format_version != FORMAT_VERSION:
        raise DataError(f"artifact: {path} has format version {header.format_version}; allowed: {FORMAT_VERSION}")
    try:
        layers = tuple(_read_layer(layer, tensors) for layer in header.layers)
    except (CompressionError, KeyError) as error:
        raise DataError(f"artifact: {path} is damaged: {_first_line(error)}") from None
    floats = {name.removeprefix("float/"): tensor for name, tensor in tensors.items() if name.startswith("float/")}
    if len(tensors) != len(floats) + sum(1 if layer.values.scale is None else 2 for layer in layers):
        raise DataError(f"artifact: {path} holds tensors that its header does not name; allowed: only named ones")
    fields = header.model_dump(exclude={"format_version", "layers"})
    return NetworkRecord(layers, floats), Identity(**fields)


def load(path: Path | str, *, model: nn.Module | None = None, allow_import: bool = False) -> nn.Module:
    """Load a compressed network; the file alone is enough.

    Args:
        path: An artifact.
        model: The uncompressed architecture to fill, for a network that this package cannot build.
        allow_import: Whether the file may name a ``module:callable`` of yours to import and call.

    Returns:
        The network in evaluation mode on the CPU, with ordinary dense convolutions.

    Raises:
        CompressionError: The file is missing or damaged, or its network cannot be built.
    """
    from pipeline.models.registry import build_model

    record, identity = read_artifact(path)
    if model is None:
        with torch.random.fork_rng():
            model = build_model(identity.model, identity.classes, allow_import=allow_import)
    return build_network(record, model)


def _layer_header(layer: LayerRecord) -> LayerHeader:
    format = layer.values.format
    return LayerHeader(
        name=layer.name,
        scheme=format.scheme,
        bits=format.bits,
        shape=tuple(layer.values.integers.shape),
        basis=layer.basis,
        order=layer.order,
        kernel=layer.kernel,
    )


def _read_layer(layer: LayerHeader, tensors: dict[str, Tensor]) -> LayerRecord:
    format = get_format(layer.scheme, layer.bits)
    integers = unpack(tensors[f"packed/{layer.name}"], format.stored_bits, layer.shape)
    values = stored_tensor(integers, tensors.get(f"scale/{layer.name}"), format)
    record = LayerRecord(layer.name, values, layer.basis, layer.order, layer.kernel)
    if layer.basis is not None and (layer.order is None or layer.kernel is None or layer.shape[2:] != layer.order):
        raise CompressionError(f"layer {layer.name!r} has a basis, but no kernel or not its shape's order")
    return record


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise DataError(f"artifact: {path} is not a file; allowed: a file that seriesquant wrote")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise DataError(f"artifact: {path} cannot be read: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return json.dumps(str(error)) if isinstance(error, KeyError) else str(error).splitlines()[0]
