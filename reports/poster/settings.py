"""Settings of a measured row in short words: ``weights fit, seed 0, 5 epochs``."""

from typing import Any, Final

from reports.fields import Settings
from reports.merging.reading import Source
from reports.model import Row
from reports.poster.figures import is_imagenet
from reports.text import settings_name

_CIFAR10_IMAGES: Final = (50_000, 10_000)
_IMAGENET_IMAGES: Final = (1_281_167, 50_000)
"""Number of training and test images."""
_FIT: Final = ("calibration_size", "device", "precision", "weights")
_TRAINING: Final = ("batch_size", "lr")
_ROUNDING: Final = ("calibration_size", "backend")


def baseline_words(source: Source, settings: Settings) -> str:
    """Describe the uncompressed network of a run.

    Args:
        source: The run.
        settings: The settings in which the runs of the network differ.
    """
    origin = "as loaded" if source.baseline.epoch is None else f"trained with seed {source.run.seed}"
    return _joined(origin, *_test_images(source), *_chosen(settings, ("device", "precision", "weights")))


def fit_words(source: Source, row: Row, settings: Settings) -> str:
    """Describe the settings of a run that affect a row's fit, and the images that measured it."""
    names = _FIT if row.fit == "activations" else _FIT[1:]
    fit = [f"{row.fit} fit"] if row.fit else []
    return _joined(*fit, f"seed {source.run.seed}", *_test_images(source), *_chosen(settings, names))


def training_words(source: Source, row: Row, settings: Settings) -> str:
    """Describe the settings of a run that affect a row's fine-tuning."""
    words = [f"{row.epochs} {'epoch' if row.epochs == 1 else 'epochs'}"]
    if not row.epochs:
        return words[0]
    words += ["labels only"] if (source.run.options or {}).get("distill") is False else []
    words += ["rolled back"] if row.finetune_undone else []
    return _joined(*words, *_train_images(source), *_chosen(settings, _TRAINING))


def quantization_words(row: Row, settings: Settings) -> str:
    """Describe the settings of a run that affect a row's rounding."""
    words = [f"{row.scheme} of {row.stored_bits} bits", row.rounding]
    words += [f"{row.qat_epochs} QAT epochs"] if row.qat_epochs else []
    return _joined(*words, *_chosen(settings, _ROUNDING if row.rounding == "gptq" else _ROUNDING[1:]))


def _images(source: Source) -> tuple[int, int]:
    data = source.run.dataset
    return _IMAGENET_IMAGES if data and is_imagenet(data.name, data.classes) else _CIFAR10_IMAGES


def _train_images(source: Source) -> list[str]:
    data = source.run.dataset
    return [f"{data.train_images:,} training images"] if data and data.train_images != _images(source)[0] else []


def _test_images(source: Source) -> list[str]:
    data = source.run.dataset
    return [f"{data.test_images:,} test images"] if data and data.test_images != _images(source)[1] else []


def _chosen(settings: Settings, names: tuple[str, ...]) -> list[str]:
    chosen: dict[str, Any] = {name: settings[name] for name in names if name in settings}
    return [settings_name(chosen)] if chosen else []


def _joined(*words: str) -> str:
    return ", ".join(words)
