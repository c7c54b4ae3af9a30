"""Build the network of the options, and check it with images of the data before any work."""

from typing import Final

import torch
from torch import Tensor, nn

from basis.copying import copy_network
from pipeline.artifact.loading import rebuilt
from pipeline.data.dataset import Dataset, is_imagenet
from pipeline.models.checks.layers import refuse_substituted
from pipeline.models.checks.network import check_network
from pipeline.models.outputs import select_output
from pipeline.models.preparation import without_wrappers
from pipeline.models.registry import build_model, build_plain
from pipeline.models.torchvision_models import default_weights_name
from pipeline.options.options import Options
from pipeline.runtime.device import Accelerator, placed
from pipeline.runtime.randomness import RandomStream
from pipeline.stages.inputs import matched
from pipeline.training.output_values import warn_of_mode
from pipeline.training.selection import hold_out
from pipeline.training.trial import (
    TRIAL_IMAGES,
    check_gradients,
    check_rounded_training,
    check_single_image,
    check_trainable,
    settle_precision,
)
from quant.rate_rounding import ROUNDING_IMAGES

CHECKED_IMAGES: Final = 4
"""Training images on which the network is checked."""


def matched_to_network(options: Options, data: Dataset) -> Dataset:
    """Return the data with the channels and the normalization that the network takes; see ``stages.inputs``.

    Raises:
        OptionsError: The network cannot be built, or it takes another number of channels.
    """
    with RandomStream(0, torch.device("cpu")).drawn_from():
        return matched(data, without_wrappers(build_model(options.model, data.classes)), options)


def checked_network(options: Options, data: Dataset) -> nn.Module:
    """Build the network of the options, and check it on some training images.

    Returns:
        The network, see ``pipeline.models.checks.network.check_network``.

    Raises:
        OptionsError: The network cannot be built, does not accept the images, or cannot be compressed.
        DataError: Its output is not one logit per class.
    """
    images = example_images(data)

    def build() -> nn.Module:
        return build_plain(options.model, data.classes, images)

    return check_network(
        build(),
        images,
        classes=data.classes,
        output=options.output,
        basis=options.basis[0],
        trained=_trains(options, data),
        rebuild=lambda model: rebuilt(model, select_output(build(), options.output)),
    )


def example_images(data: Dataset) -> Tensor:
    """Return some training images, float32, (N, C, H, W), normalized, on the CPU, in the default memory format."""
    return data.train.sample(CHECKED_IMAGES, seed=0, device=torch.device("cpu")).contiguous()


def check_training(options: Options, data: Dataset, accelerator: Accelerator, network: nn.Module) -> None:
    """Set the precision to one in which the network can be trained, and refuse batches of one image where they fail.

    Args:
        options: The options of the run.
        data: The data as the network takes them.
        accelerator: Its precision is set.
        network: The checked network; it is not changed.

    Raises:
        OptionsError: The network cannot be trained, on batches of one image, in the precision of the options, or
            through the rounding; or it has no gradients for a target.
    """
    measures = bool(options.target_mb) or options.target_drop is not None
    through_rounding = bool(options.qat_epochs or (options.epochs and measures))
    if through_rounding:
        refuse_substituted(network)
    single, trains = _cause_of_single_images(options, data), _trains(options, data)
    if accelerator.precision == "no" and not trains and not measures:
        return
    images, _ = next(data.train.part(0, TRIAL_IMAGES).batches(TRIAL_IMAGES, device=accelerator.device))
    model = placed(copy_network(network), accelerator.device)
    settle_precision(accelerator, model, images, options.precision)
    if single:
        check_single_image(model, images[:1], *single)
    if trains:
        check_trainable(model, images, "--epochs 0 with --weights of a file or builtin")
        if through_rounding:
            check_rounded_training(copy_network(network).to(accelerator.device), images)
        if options.distill and (options.epochs or options.qat_epochs):
            warn_of_mode(copy_network(network).to(accelerator.device), images, labelled=True)
    if measures:
        check_gradients(model, images, min(options.calibration_size, len(data.train), ROUNDING_IMAGES))


def automatic_weights(options: Options, data: Dataset) -> str | None:
    """Return the name of torchvision's weights that ``--weights auto`` loads; None if it trains the network instead."""
    return default_weights_name(options.model) if is_imagenet(data) else None


def trains_baseline(options: Options, data: Dataset) -> bool:
    """Return True if the run trains the uncompressed network, False if it loads its weights."""
    return options.weights == "auto" and automatic_weights(options, data) is None


def _trains(options: Options, data: Dataset) -> bool:
    return bool(options.epochs or options.qat_epochs or trains_baseline(options, data))


def _cause_of_single_images(options: Options, data: Dataset) -> tuple[str, str] | None:
    """Return the reason why the run trains on batches of one image, and what is allowed; None if it does not."""
    count = len(data.train)
    if len(hold_out(data.train).trained) == 1 and _trains(options, data):
        shown = "1 training image" if count == 1 else f"{count} training images, one of which is held out"
        return f"--data: got {shown}", "3 or more"
    if options.batch_size == 1 and (options.epochs or options.qat_epochs):
        return "--batch-size: got 1", "2 or more"
    return None
