"""From the text of `--data` to a data set."""

from pathlib import Path

from pipeline.data.cifar import cifar_folders, load_cifar
from pipeline.data.dataset import Dataset, check_limit, is_imagenet
from pipeline.data.digits import load_digits
from pipeline.data.folder import is_image_folder, load_folder
from pipeline.data.memory import MemorySplit, memory_dataset
from pipeline.data.npz import load_npz
from pipeline.errors import DataError, OptionsError

__all__ = ["is_imagenet", "load_dataset"]

ALLOWED = (
    "allowed are digits, an .npz file, a folder with train/ and val/ or test/, and a folder with "
    "cifar-10-batches-py or cifar-100-python"
)


def load_dataset(
    source: str, *, limit_train: int | None = None, limit_test: int | None = None, workers: int = 2
) -> Dataset:
    """Load a data set.

    Args:
        source: `digits`, or the path of an `.npz` file, of an image folder or of a torchvision CIFAR folder.
        limit_train: Keep only the first so many training images.
        limit_test: Keep only the first so many test images.
        workers: Processes that decode streamed images.

    Returns:
        The data set; its digest covers only the images that were kept.

    Raises:
        OptionsError: If a limit is below 1 or `workers` is negative.
        DataError: If the source is missing, damaged or of no known kind.
    """
    for limit in (limit_train, limit_test):
        if limit is not None:
            check_limit(limit)
    if workers < 0:
        raise OptionsError(f"the number of workers must be 0 or more, got {workers}")
    path = Path(source).expanduser()
    if source != "digits" and is_image_folder(path):
        return load_folder(path, limit_train=limit_train, limit_test=limit_test, workers=workers)
    return _limited(load_digits() if source == "digits" else _from_path(path), limit_train, limit_test)


def _from_path(path: Path) -> Dataset:
    if not path.exists():
        raise DataError(f"the data {path} does not exist; {ALLOWED}")
    if path.is_file():
        if path.suffix.lower() != ".npz":
            raise DataError(f"the data {path} is a file but not an .npz file; {ALLOWED}")
        return load_npz(path)
    folders = cifar_folders(path)
    if not folders:
        raise DataError(f"the data {path} is a folder of no known layout; {ALLOWED}")
    if len(folders) > 1:
        raise DataError(f"the data {path} holds both CIFAR-10 and CIFAR-100; give one of the two folders in it")
    return load_cifar(folders[0])


def _limited(dataset: Dataset, limit_train: int | None, limit_test: int | None) -> Dataset:
    if limit_train is None and limit_test is None:
        return dataset
    train, test = dataset.train, dataset.test
    if not isinstance(train, MemorySplit) or not isinstance(test, MemorySplit):
        raise TypeError("only data in memory is limited after loading")
    return memory_dataset(
        dataset.name, dataset.class_names, train.head(limit_train or len(train)), test.head(limit_test or len(test))
    )
