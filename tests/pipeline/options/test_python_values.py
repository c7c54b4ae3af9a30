"""Options as values of NumPy and torch, and values that no error should print whole."""

import numpy as np
import pytest
import torch

from pipeline.errors import OptionsError
from pipeline.options.options import Options


@pytest.mark.parametrize("array", [np.array, torch.tensor])
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("mean", [0.5, 0.25], (0.5, 0.25)),
        ("std", 0.5, (0.5,)),
        ("image_size", [32, 16], (32, 16)),
        ("bits", [8, 4], (8, 4)),
        ("dense_bits", [3], (3,)),
        ("target_mb", [0.5], (0.5,)),
        ("epochs", 2, 2),
        ("lr", 0.5, 0.5),
        ("fresh", True, True),
        ("output", 1, "1"),
    ],
)
def test_arrays_and_tensors_count_as_lists_and_numbers(array, name, value, expected):
    found = getattr(Options(config="3,3,2,2", **{name: array(value)}), name)
    assert (found, type(found)) == (expected, type(expected))


def test_a_device_of_torch():
    assert Options(config="3,3,2,2", device=torch.device("cuda", 1)).device == "cuda:1"
    with pytest.raises(OptionsError, match=r"--device: got meta; allowed: auto, cpu"):
        Options(config="3,3,2,2", device=torch.device("meta"))


@pytest.mark.parametrize("value", [np.zeros((90, 90)), torch.zeros(900), {"weight": torch.zeros(90, 90)}])
@pytest.mark.parametrize("name", ["data", "weights", "bits", "config"])
def test_an_error_is_one_short_line(name, value):
    with pytest.raises(OptionsError, match=f"^--{name}: got ") as caught:
        Options(**{"config": "3,3,2,2", name: value})
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
