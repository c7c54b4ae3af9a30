"""Read torchvision's CIFAR-10 and CIFAR-100 folders."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from pipeline.data.dataset import Dataset, Normalization
from pipeline.data.memory import MemorySplit, memory_dataset
from pipeline.errors import DataError

FOLDERS: Final[Mapping[str, str]] = MappingProxyType({"cifar-10-batches-py": "cifar10", "cifar-100-python": "cifar100"})


def cifar_folders(path: Path) -> list[Path]:
    """Return ``path`` if it is a CIFAR folder itself, else the CIFAR folders in it."""
    if path.name in FOLDERS:
        return [path]
    return [path / name for name in FOLDERS if (path / name).is_dir()]


def load_cifar(folder: Path) -> Dataset:
    """Read CIFAR-10 or CIFAR-100 as torchvision stores it.

    The format is pickle, so torchvision first checks the published MD5 sum of every file. Nothing is downloaded. The
    published order mixes the classes, so it is kept.

    Args:
        folder: ``cifar-10-batches-py`` or ``cifar-100-python``.

    Returns:
        The data set ``cifar10`` or ``cifar100``: 50,000 training and 10,000 test images of 32x32 pixels.

    Raises:
        DataError: A file is missing or differs from the published one.
        OSError: A file cannot be opened or read.
    """
    from torchvision.datasets import CIFAR10, CIFAR100  # imported here, because that takes as long as importing torch

    name = FOLDERS[folder.name]
    source = CIFAR10 if name == "cifar10" else CIFAR100
    try:
        halves = [source(str(folder.parent), train=train, download=False) for train in (True, False)]
    except RuntimeError as error:
        raise DataError(f"{folder} is not the published {name}: a file is missing, or its MD5 sum differs") from error
    return memory_dataset(name, tuple(halves[0].classes), _split(halves[0]), _split(halves[1]))


def _split(half: Any) -> MemorySplit:
    images = torch.from_numpy(half.data).contiguous()
    return MemorySplit(images, torch.tensor(half.targets, dtype=torch.int64), Normalization(), flip=True)
