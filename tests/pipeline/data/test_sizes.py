"""The common size of images, and images that are brought to a size."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data import load_dataset
from pipeline.data.sizes import MARGIN, common_size, covered, fitted
from tests.support.datasets import contents
from tests.support.networks import write_npz

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(6, 5), (40, 40), (40, 40)], (40, 40)),
        ([(10, 30), (20, 20), (30, 10), (20, 21), (21, 20)], (20, 20)),
        ([(7, 9)], (7, 9)),
    ],
)
def test_most_images_or_the_median_decide(sizes, expected):
    assert common_size(sizes) == expected
    assert common_size(sizes[::-1]) == expected


def stripes(height, width):
    """Red on the left third, green in the middle, blue on the right."""
    image = torch.zeros(height, width, 3, dtype=torch.uint8)
    for channel, part in enumerate(image.chunk(3, dim=1)):
        part[..., channel] = 240
    return image


@pytest.mark.parametrize("size", [(20, 20), (30, 20), (10, 30), (60, 60)])
def test_images_keep_their_aspect_ratio_and_their_centre(size):
    image = stripes(20, 60)
    cut = fitted(Image.fromarray(image.numpy()), size)
    assert cut.size == (size[1], size[0])
    batch = covered(image[None], size)
    assert batch.shape == (1, *size, 3)
    assert batch[0, size[0] // 2, size[1] // 2].argmax() == 1
    difference = batch[0].int() - torch.from_numpy(np.array(cut)).int()
    assert difference.abs().max() <= 2  # Pillow rounds between its two passes


def test_an_image_of_the_size_is_unchanged():
    image = stripes(12, 18)
    assert covered(image[None], (12, 18)).data_ptr() == image.data_ptr()
    assert fitted(Image.fromarray(image.numpy()), (12, 18)).tobytes() == image.numpy().tobytes()


def test_the_margin_is_that_of_imagenets_preset():
    """Of 256x256 pixels, the centre 224x224 is left."""
    ramp = Image.linear_gradient("L")  # 256x256; row r has the value r
    cut = fitted(ramp, (224, 224), MARGIN)
    assert (cut.getpixel((0, 0)), cut.getpixel((0, 223))) == (16, 239)


def test_arrays_are_resized_in_batches_only(tmp_path):
    path = str(write_npz(tmp_path / "colours.npz"))
    data, large = load_dataset(path), load_dataset(path, image_size=(18, 24))
    assert large.image_size == (18, 24)
    assert large.train.images.shape == data.train.images.shape
    for split in (large.train, large.test):
        images, _ = next(split.batches(5, device=CPU, seed=0, augment=True))
        assert images.shape == (5, 3, 18, 24)
    assert large.test.sample(3, seed=0, device=CPU).shape == (3, 3, 18, 24)
    assert any("12x12" in note and "18x24" in note for note in large.notes)
    assert contents(large) != contents(data)
    assert contents(load_dataset(path, image_size=(12, 12))) == contents(data)


def test_digits_take_a_size_and_a_limit():
    data = load_dataset("digits", image_size=(20, 20), limit_train=9, limit_test=4)
    assert next(data.train.batches(9, device=CPU))[0].shape == (9, 3, 20, 20)


@pytest.mark.parametrize("wanted", [(16, 16), (16, 320), (320, 16)])
@pytest.mark.parametrize("size", [(3, 900), (900, 3), (1, 700), (1000, 1)])
def test_the_middle_of_a_long_strip_is_what_its_whole_resizing_gives(size, wanted, monkeypatch):
    values = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    found = np.asarray(fitted(image, wanted, MARGIN)).astype(int)
    monkeypatch.setattr("pipeline.data.sizes._MOST_PIXELS", 10**9)
    whole = np.asarray(fitted(image, wanted, MARGIN)).astype(int)
    assert found.shape == whole.shape == (*wanted, 3)
    assert np.abs(found - whole).mean() <= 1
