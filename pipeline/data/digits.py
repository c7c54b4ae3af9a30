"""scikit-learn's handwritten digits, which come with the library: data for a first run without a network connection."""

import torch
from torch.nn import functional

from pipeline.data.dataset import Dataset, Normalization
from pipeline.data.memory import MemorySplit, memory_dataset

SIZE = 32
TEST_IMAGES = 360


def load_digits() -> Dataset:
    """1,437 training and 360 test images of 32x32 pixels, split by class with a fixed seed."""
    from sklearn import datasets, model_selection  # takes a second, and other data does not need it

    bunch = datasets.load_digits()
    train, test = model_selection.train_test_split(
        range(len(bunch.target)), test_size=TEST_IMAGES, stratify=bunch.target, random_state=0
    )
    values = torch.from_numpy(bunch.images).to(torch.float32)[:, None] * (255 / 16)
    large = functional.interpolate(values, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    images = large.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous()
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    splits = [MemorySplit(images[index], labels[index], Normalization(), flip=False) for index in (train, test)]
    return memory_dataset("digits", tuple(map(str, range(10))), *splits)
