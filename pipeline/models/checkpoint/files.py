"""Read the formats that checkpoints are stored in: safetensors, torch's three, TorchScript, and plain pickles."""

import io
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import safetensors
import torch
from torch import Tensor

from pipeline.errors import DataError
from pipeline.models.checkpoint.folders import INDEX, checkpoint_file, shards_of
from pipeline.models.checkpoint.pickles import HostileError, read_pickle
from pipeline.models.checkpoint.rebuild import Global, Placeholder, Rebuild
from pipeline.options.paths import is_system_error, reading

ALLOWED: Final = "a .safetensors file, a file of torch.save or torch.jit.save (.pt, .pth, .th, .ckpt), or an .npz file"
ARTIFACT_KEY: Final = "seriesquant"
"""Entry in the metadata of an artifact; see ``pipeline.artifact.container``."""
_MAGIC: Final = 0x1950A86A20F9469CFC6C
_STORAGES: Final = {
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Double": torch.float64,
    "Char": torch.int8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "Untyped": torch.uint8,
}
_OTHER_FORMATS: Final = (
    (b"\x89HDF", "HDF5 (Keras)"),
    (b"\x1f\x8b", "gzip"),
    (b"\x93NUMPY", "NumPy's .npy"),
    (b"{", "JSON"),
    (b"\x08", "ONNX"),
    (b"version https://git-lfs", "of a Git LFS pointer, in place of the file that `git lfs pull` fetches"),
    (b"<", "HTML or XML, as of a download that failed"),
)
_LONGEST: Final = max(len(start) for start, _ in _OTHER_FORMATS)


def existing_checkpoint(path: Path) -> Path:
    """Return the file of a checkpoint: the path itself, or a file in the folder.

    Raises:
        DataError: There is no such file, it cannot be read, or it must be converted.
    """
    with reading(f"the checkpoint {path}"):
        path = checkpoint_file(path)
        if not path.is_file():
            raise DataError(f"the checkpoint {path} does not exist or is not a file; give {ALLOWED}")
        path.open("rb").close()
    return path


def read_checkpoint(path: Path) -> Any:
    """Read a checkpoint on the CPU as data, see ``pipeline.models.checkpoint.pickles``. The format is found by content.

    Args:
        path: A safetensors file, a file of ``torch.save`` (zip, the format before 1.6, or tar), a TorchScript archive,
            a NumPy archive, or a plain pickle. The code of a TorchScript archive is not read. Or a folder or an index
            of shards; see ``pipeline.models.checkpoint.folders``.

    Returns:
        The content; tensors of a file share memory where they did when they were saved.

    Raises:
        DataError: The file is missing or damaged, has another format, or would run commands if it were unpickled.
    """
    path = existing_checkpoint(path)
    if path.name.endswith(INDEX):
        return _joined(path, [read_checkpoint(shard) for shard in shards_of(path)])
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except HostileError as error:
        raise DataError(
            f"the checkpoint {path} refers to {error}, which would run commands when it is unpickled; nothing was run; "
            "get the weights as a .safetensors file from a source that you trust"
        ) from None
    except DataError:
        raise
    except Exception as error:  # damaged files raise anything from UnicodeDecodeError to KeyError
        if isinstance(error, OSError) and is_system_error(error):
            with reading(f"the checkpoint {path}"):
                raise
        raise DataError(
            f"the checkpoint {path} cannot be read: it is damaged or no checkpoint ({type(error).__name__}); "
            f"allowed: {ALLOWED}"
        ) from error


def _joined(index: Path, shards: list[Any]) -> dict[Any, Any]:
    if not all(isinstance(shard, Mapping) for shard in shards):
        raise DataError(f"the checkpoint {index} has a shard without names of tensors")
    return {name: value for shard in shards for name, value in shard.items()}


def _read(file: IO[bytes], path: Path) -> Any:
    start = file.read(_LONGEST)
    file.seek(0)
    if not start:
        raise DataError(f"the checkpoint {path} is damaged: it is empty; allowed: {ALLOWED}")
    if path.suffix == ".safetensors" or (start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < 2**32):
        with safetensors.safe_open(path, framework="pt", device="cpu") as tensors:
            if ARTIFACT_KEY in (tensors.metadata() or {}):
                raise DataError(
                    f"{path} is a compressed network, and no checkpoint; allowed: {ALLOWED}; seriesquant export "
                    "writes the weights of a compressed network to one"
                )
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 (not a dict)
    for magic, name in _OTHER_FORMATS:
        if start.startswith(magic):
            raise DataError(f"the checkpoint {path} has the format {name}; allowed: {ALLOWED}")
    if zipfile.is_zipfile(file):
        return _read_zip(file, path)
    file.seek(0)
    if start[:1] not in (b"\x80", b"(", b"c") and _is_tar(file):
        file.seek(0)
        return _read_tar(file)
    file.seek(0)
    return _read_stream(file)


def _read_zip(file: IO[bytes], path: Path) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.count("/") <= 1]
        found = next((name for name in names if name.rpartition("/")[2] == "data.pkl"), None)
        if found is None and names and all(name.endswith(".npy") for name in names):
            return _read_arrays(file)
        if found is None:
            exported = any(name.rpartition("/")[2] == "archive_format" for name in names)
            raise DataError(
                f"the checkpoint {path} is a zip archive without data.pkl, which torch.save and torch.jit.save write"
                f"{', but of torch.export, whose program has a state_dict to save' if exported else ''}; "
                f"allowed: {ALLOWED}"
            )
        folder = found.removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder").decode() != sys.byteorder:
            raise DataError(f"the checkpoint {path} was saved in another byte order; allowed: {sys.byteorder}-endian")
        storages: dict[str, Tensor] = {}

        def load_storage(key: tuple[Any, ...]) -> Any:
            _, kind, name, *_ = key
            if name not in storages:
                storages[name] = _bytes_tensor(archive.read(f"{folder}data/{name}"))
            return _as_type(storages[name], kind)

        return read_pickle(io.BytesIO(archive.read(found)), load_storage, _nested())


def _read_arrays(file: IO[bytes]) -> dict[str, Tensor]:
    """Read the arrays of a NumPy archive, in place of tensors."""
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return {
            name: torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
            for name, array in arrays.items()
            if array.dtype.kind in "buif"
        }


def _read_stream(file: IO[bytes]) -> Any:
    """Read the format before torch 1.6 (five pickles, then the storages' bytes), or one plain pickle of anything."""
    content = read_pickle(file, _no_storage, _nested())
    if not isinstance(content, int) or content != _MAGIC:
        return content
    read_pickle(file, _no_storage)
    if not read_pickle(file, _no_storage)["little_endian"]:
        raise ValueError("big-endian")
    storages: dict[Any, Tensor] = {}

    def load_storage(key: tuple[Any, ...]) -> Any:
        if key[0] in ("module", b"module"):  # a class with its source code
            return key[1]
        _, kind, root, _, count, view = key
        item = _item_size(kind)
        if root not in storages:
            storages[root] = torch.empty(count * item, dtype=torch.uint8)
        if view is None:
            return _as_type(storages[root], kind)
        _, start, length = view
        return _as_type(storages[root][start * item : (start + length) * item], kind)

    content = read_pickle(file, load_storage, _nested())
    for root in read_pickle(file, _no_storage):
        (count,) = struct.unpack("<q", file.read(8))
        values = storages[root]
        if values.numel() % max(count, 1) or file.readinto(values.numpy().data) != values.numel():  # type: ignore[attr-defined]
            raise EOFError("a storage is incomplete")
    return content


def _read_tar(file: IO[bytes]) -> Any:
    """Read the format before torch 0.2: tar with the members ``storages``, ``tensors`` and ``pickle``."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        known: dict[int, Any] = {}
        member = _member(archive, "storages")
        for _ in range(read_pickle(member, _no_storage)):
            key, _, kind = read_pickle(member, _no_storage)
            (count,) = struct.unpack("<q", member.read(8))
            known[key] = _as_type(_bytes_tensor(member.read(count * _item_size(kind))), kind)
        for key, root, offset, count in read_pickle(member, _no_storage):
            known[key] = known[root][offset : offset + count]
        member = _member(archive, "tensors")
        for _ in range(read_pickle(member, _no_storage)):
            key, root, _ = read_pickle(member, _no_storage)
            dimensions, _ = struct.unpack("<ii", member.read(8))
            *numbers, offset = struct.unpack(f"<{2 * dimensions + 1}q", member.read(8 * (2 * dimensions + 1)))
            known[key] = known[root].as_strided(numbers[:dimensions], numbers[dimensions:], offset)
        return read_pickle(
            _member(archive, "pickle"), lambda key: key[0] if isinstance(key, tuple) else known[int(key)]
        )


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    found = archive.extractfile(name)
    if found is None:
        raise ValueError(name)
    return io.BytesIO(found.read())


def _is_tar(file: IO[bytes]) -> bool:
    try:
        with tarfile.open(fileobj=file, mode="r:"):
            return True
    except tarfile.TarError:
        return False


def _nested() -> Mapping[Global, Rebuild]:
    """Return the function for tensors in a plain pickle: each storage is a file of ``torch.save`` in bytes."""
    load: Callable[[bytes], Any] = lambda content: _read_stream(io.BytesIO(content))  # noqa: E731
    return {Global("torch.storage", "_load_from_bytes"): load}


def _no_storage(_: Any) -> Any:
    raise ValueError("a storage where none is allowed")


def _bytes_tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def _dtype(kind: Any) -> torch.dtype | None:
    """Return the dtype of a storage's class; None for the quantized classes."""
    return _STORAGES.get(kind.name.removesuffix("Storage")) if isinstance(kind, Global) else None


def _item_size(kind: Any) -> int:
    dtype = _dtype(kind)
    return 1 if dtype is None else dtype.itemsize


def _as_type(values: Tensor, kind: Any) -> Any:
    dtype = _dtype(kind)
    return Placeholder(str(kind)) if dtype is None else values.view(dtype)
