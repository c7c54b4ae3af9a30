"""Cache keys of a variant, and the settings of its trainings, before anything is computed."""

import numpy as np
import pytest

from pipeline.options.grid import variants
from pipeline.options.options import Options
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.progress import SilentProgress
from pipeline.runtime.signals import Interruption
from pipeline.stages.baseline import make_baseline
from pipeline.stages.context import make_context
from pipeline.stages.keys import variant_keys
from pipeline.training.selection import NO_HARM, certain_gain


@pytest.fixture
def imagenet(here):
    """Some images of ImageNet's classes."""
    pixels, labels = np.zeros((80, 12, 12, 3), np.uint8), np.arange(80, dtype=np.int64)
    halves = {"x_train": pixels, "y_train": labels, "x_test": pixels[:5], "y_test": labels[:5]}
    np.savez(here / "imagenet.npz", **halves, class_names=np.array([f"n{number:08d}" for number in range(1000)]))
    return "imagenet.npz"


@pytest.mark.parametrize(("weights", "margin"), [("auto", certain_gain(5)), ("builtin", NO_HARM)])
def test_only_loaded_weights_may_know_the_held_out_images(imagenet, weights, margin):
    """A network of one's own has no published weights: auto trains it on ImageNet, without the held-out images."""
    options = Options(
        config="3,2,2", bits=(4,), model="tiny_net:make", data=imagenet, weights=weights, batch_size=1, workers=0
    )
    context = make_context(options, make_accelerator("cpu"), SilentProgress(), Interruption())
    baseline = make_baseline(context, context.network, "random", float("nan"))
    (variant,) = variants(options)
    training = variant_keys(context, baseline, variant).training
    assert training is not None
    assert training.schedule.steps(len(context.images.trained)) >= 300
    assert training.margin == margin
