"""Match the data to the inputs of the network: channels and normalization."""

from torch import nn

from pipeline.data.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset, Normalization, default_normalization
from pipeline.errors import OptionsError
from pipeline.models.inputs import Statistics, input_channels, published_statistics
from pipeline.options.options import Options


def matched(data: Dataset, model: nn.Module, options: Options) -> Dataset:
    """Return the data with the network's number of channels and its normalization.

    Gray images are repeated for a network of 3 channels. For a network of 1 channel, RGB images are converted to gray.
    ``--mean`` and ``--std`` override the normalization that the network's library publishes, or ImageNet's. Where the
    numbers of channels differ, every channel gets the mean of the published values.

    Args:
        data: The data as loaded.
        model: The network.
        options: The options of the run.

    Raises:
        OptionsError: The data have another number of channels than the network, or ``--mean`` or ``--std`` has.
    """
    channels = input_channels(model, data.channels, data.image_size)
    check_channels(data, channels, options.model)
    published = published_statistics(model, options.model, options.weights)
    normalization = _normalization(options, channels, published)
    return data.normalized(normalization, *_notes(data, normalization, published))


def check_channels(data: Dataset, channels: int, model: str) -> None:
    """Check that images can be converted to the channels of a network.

    Args:
        data: The data.
        channels: Number of channels that the network takes.
        model: The network's name.

    Raises:
        OptionsError: They cannot be converted.
    """
    if data.channels == channels or (data.channels, channels) in ((1, 3), (3, 1)):
        return
    also = {1: " or 3", 3: " or 1"}.get(channels, "")
    raise OptionsError(
        f"the network {model} takes images of {_count(channels)}, but the data {data.name} have "
        f"{_count(data.channels)}; allowed: data of {channels}{also}"
    )


def _normalization(options: Options, channels: int, published: Statistics | None) -> Normalization:
    known = default_normalization(channels, *(published or (IMAGENET_MEAN, IMAGENET_STD)))
    return Normalization(
        _per_channel("--mean", options.mean, channels) or known.mean,
        _per_channel("--std", options.std, channels) or known.std,
    )


def _per_channel(flag: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Return one value per channel; none if the option is not given."""
    if len(values) not in (0, 1, channels):
        allowed = "1" if channels == 1 else f"1 or {channels}"
        raise OptionsError(f"{flag}: got {len(values)} values for a network of {_count(channels)}; allowed: {allowed}")
    return values * channels if len(values) == 1 else values


def _notes(data: Dataset, normalization: Normalization, published: Statistics | None) -> list[str]:
    notes = []
    if (data.channels, normalization.channels) == (3, 1):
        notes.append("the images are converted to gray, because the network takes 1 channel")
    if published and published != (IMAGENET_MEAN, IMAGENET_STD) and normalization == Normalization(*published):
        mean, std = (",".join(f"{value:g}" for value in values) for values in published)
        notes.append(f"normalization: mean {mean} and std {std}, which the network's library publishes")
    return notes


def _count(channels: int) -> str:
    return f"{channels} channel{'s' * (channels != 1)}"
