"""Batch augmentation against a loop over images."""

import torch
from torch.nn import functional

from pipeline.data.augment import random_boxes, random_crop, random_flip, random_resized_crop
from pipeline.data.dataset import seeded


def _images(count, height=6, width=9):
    return torch.randint(1, 256, (count, height, width, 3), dtype=torch.uint8, generator=seeded(0))


def test_crop_is_a_window_of_the_padded_image():
    images = _images(40)
    out = random_crop(images, 2, seeded(3))
    generator = seeded(3)
    rows = torch.randint(5, (40,), generator=generator)
    columns = torch.randint(5, (40,), generator=generator)
    for image, result, row, column in zip(images, out, rows, columns, strict=True):
        padded = functional.pad(image, (0, 0, 2, 2, 2, 2))
        assert torch.equal(result, padded[row : row + 6, column : column + 9])


def test_flip_mirrors_about_half():
    images = _images(200)
    out = random_flip(images, seeded(1))
    same = (out == images).flatten(1).all(1)
    mirrored = (out == images.flip(2)).flatten(1).all(1)
    assert bool((same | mirrored).all())
    assert 60 < int(mirrored.sum()) < 140


def test_boxes_lie_inside():
    top, left, tall, wide = random_boxes(2000, 50, 20, seeded(0)).unbind(1)
    assert int(torch.minimum(top, left).min()) >= 0
    assert int(torch.minimum(tall, wide).min()) >= 1
    assert int((top + tall).max()) <= 50
    assert int((left + wide).max()) <= 20


def test_resized_crop_keeps_shape_and_a_constant_image():
    images = torch.full((4, 100, 120, 3), 77, dtype=torch.uint8)
    assert torch.equal(random_resized_crop(images, seeded(0)), images)
