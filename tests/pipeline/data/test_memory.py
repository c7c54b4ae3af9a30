"""Splits in memory: order, shuffling, normalization, limits."""

import pytest
import torch

from pipeline.data.dataset import Dataset, Normalization, is_imagenet
from pipeline.data.memory import MemorySplit, memory_dataset
from pipeline.errors import OptionsError
from tests.support.datasets import contents

CPU = torch.device("cpu")


def make(count, size=8, flip=True):
    images = torch.randint(256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return MemorySplit(images, torch.arange(count) % 3, Normalization(), flip)


def test_in_order_and_normalized():
    split = make(10)
    images, labels = (torch.cat(part) for part in zip(*split.batches(4, device=CPU), strict=True))
    assert torch.equal(labels, split.labels)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (split.normalization.mean, split.normalization.std))
    torch.testing.assert_close(images, (split.images.permute(0, 3, 1, 2) / 255 - mean) / std)


def test_type_and_layout():
    images, labels = next(make(4).batches(4, device=CPU, seed=0, augment=True))
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("count", "augment", "sizes"), [(10, False, [4, 4, 2]), (10, True, [4, 4]), (6, True, [4, 2]), (3, True, [3])]
)
def test_batch_sizes(count, augment, sizes):
    assert [len(labels) for _, labels in make(count).batches(4, device=CPU, seed=0, augment=augment)] == sizes


def test_a_seed_decides_everything():
    def run(seed):
        return torch.cat([images for images, _ in make(32).batches(8, device=CPU, seed=seed, augment=True)])

    assert torch.equal(run(5), run(5))
    assert not torch.equal(run(5), run(6))


def test_shuffling_keeps_pairs():
    split = make(30)
    split.images[:, 0, 0, 0] = split.labels.to(torch.uint8) * 50
    images, labels = next(split.batches(30, device=CPU, seed=1))
    red = (images[:, 0, 0, 0] * 0.229 + 0.485) * 255
    assert torch.equal((red / 50).round().long(), labels)
    assert not torch.equal(labels, split.labels)


@pytest.mark.parametrize(("size", "padding"), [(8, 1), (12, 1), (28, 2), (32, 2), (64, 4), (80, 5)])
def test_small_images_are_shifted_by_a_sixteenth_of_their_side(size, padding):
    images = torch.zeros(1024, size, size, 3, dtype=torch.uint8)
    images[:, size // 2, size // 2] = 255
    split = MemorySplit(images, torch.zeros(1024, dtype=torch.int64), Normalization(), flip=False)
    batch, _ = next(split.batches(1024, device=CPU, seed=0, augment=True))
    places = (batch[:, 0] > 0).nonzero()[:, 1:] - size // 2
    assert len(places) == 1024
    assert places.unique(dim=0).shape[0] == (2 * padding + 1) ** 2
    assert places.abs().max() == padding


def test_digits_are_never_mirrored_and_large_images_use_boxes():
    images = torch.zeros(64, 8, 8, 3, dtype=torch.uint8)
    images[:, :, 0] = 255  # white left edge; black comes in from outside, so the right half stays black
    split = MemorySplit(images, torch.zeros(64, dtype=torch.int64), Normalization(), flip=False)
    batch, _ = next(split.batches(64, device=CPU, seed=0, augment=True))
    assert batch[..., 5:].max() < 0
    assert next(make(2, size=100).batches(2, device=CPU, seed=0, augment=True))[0].shape == (2, 3, 100, 100)


def test_head_and_sample():
    split = make(10)
    first = next(split.batches(4, device=CPU))
    head = list(split.head(4).batches(10, device=CPU))
    assert len(head) == 1
    assert torch.equal(head[0][0], first[0])
    assert torch.equal(head[0][1], first[1])
    assert len(split.head(99)) == 10
    assert split.sample(4, seed=0, device=CPU).shape == (4, 3, 8, 8)
    assert split.sample(99, seed=0, device=CPU).shape[0] == 10
    assert torch.equal(split.sample(4, seed=2, device=CPU), split.sample(4, seed=2, device=CPU))


def test_refusals():
    with pytest.raises(OptionsError, match=r"limit.* 1 or more.* 0"):
        make(3).head(0)
    with pytest.raises(OptionsError, match=r"batch size.* 0"):
        next(make(3).batches(0, device=CPU))
    with pytest.raises(OptionsError, match=r"augment.* seed"):
        next(make(3).batches(1, device=CPU, augment=True))


def test_digest_follows_the_contents():
    names = ("a", "b", "c")
    first = memory_dataset("x", names, make(6), make(3))
    assert contents(first) == contents(memory_dataset("y", names, make(6), make(3)))
    changed = make(6)
    changed.images[0, 0, 0, 0] ^= 1
    assert contents(first) != contents(memory_dataset("x", names, changed, make(3)))
    assert contents(first) != contents(memory_dataset("x", ("a", "b", "d"), make(6), make(3)))


def test_is_imagenet():
    def named(names):
        return Dataset("x", len(names), names, (8, 8), make(1), make(1), Normalization())

    assert is_imagenet(named(tuple(f"n{i:08d}" for i in range(1000))))
    assert not is_imagenet(named(tuple(f"n{i:08d}" for i in range(999))))
    assert not is_imagenet(named(tuple(map(str, range(1000)))))
