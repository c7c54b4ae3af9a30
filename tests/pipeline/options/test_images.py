"""--mean, --std and --image-size."""

import pytest

from pipeline.errors import OptionsError
from pipeline.options.options import Options


@pytest.mark.parametrize(
    ("value", "mean"),
    [("0.5", (0.5,)), (0.1307, (0.1307,)), ("0.5, 0.4,0", (0.5, 0.4, 0.0)), ([0.1, 1], (0.1, 1.0)), ([], ())],
)
def test_means(value, mean):
    assert Options(config="dense", model="resnet20", mean=value).mean == mean


@pytest.mark.parametrize(
    ("value", "size"), [("224", (224, 224)), (64, (64, 64)), ("20,30", (20, 30)), ([7, 9], (7, 9))]
)
def test_sizes(value, size):
    options = Options(config="dense", model="resnet20", image_size=value)
    assert options.image_size == size
    assert "--image-size {},{}".format(*size) in options.command()


@pytest.mark.parametrize(
    ("name", "value", "flag"),
    [
        ("mean", "123.7,116.3,103.5", "--mean"),
        ("mean", "half", "--mean"),
        ("mean", "nan", "--mean"),
        ("mean", "", "--mean"),
        ("mean", True, "--mean"),
        ("std", "0", "--std"),
        ("std", "58.4", "--std"),
        ("std", "0.5,-0.1,0.2", "--std"),
        ("image_size", "0", "--image-size"),
        ("image_size", "12,13,14", "--image-size"),
        ("image_size", "1e2", "--image-size"),
        ("image_size", 2**20, "--image-size"),
        ("image_size", True, "--image-size"),
    ],
)
def test_refusals(name, value, flag):
    with pytest.raises(OptionsError, match=rf"{flag}: got .*allowed: .*1"):
        Options(config="dense", model="resnet20", **{name: value})


def test_the_command_repeats_them():
    command = Options(config="dense", model="resnet20", mean="0.5", std=[0.25, 0.5, 1]).command()
    assert "--mean 0.5 --std 0.25,0.5,1.0" in command
