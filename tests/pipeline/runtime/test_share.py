"""Parts of images and of batches: nothing is lost, nothing counts twice."""

import pytest
import torch

from pipeline.data.folders import load_folder
from pipeline.runtime.share import WHOLE, RankSlice
from tests.pipeline.data.test_folder import make as make_folder
from tests.pipeline.data.test_memory import make as make_split

CPU = torch.device("cpu")


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 6, 7, 50])
def test_parts_are_neighbours_of_about_one_size_and_make_up_the_whole(length, count):
    parts = [RankSlice(rank, count).of(length) for rank in range(count)]
    assert [number for part in parts for number in range(length)[part]] == list(range(length))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sizes[0] == max(sizes), "the main process has one where there are any"


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("length", [1, 2, 3, 6, 7, 50])
def test_weighted_means_of_the_parts_of_a_batch_are_its_mean(length, count):
    values = [float(number**2) for number in range(length)]
    weighted = []
    for share in (RankSlice(rank, count) for rank in range(count)):
        mine = values[share.of_batch(length)]
        assert len(mine) >= min(2, length)
        weighted.append(share.weight(length) * sum(mine) / len(mine))
    assert sum(weighted) / count == pytest.approx(sum(values) / length)


def test_the_whole_is_one_part():
    assert WHOLE.of(5) == WHOLE.of_batch(5) == slice(0, 5)
    assert WHOLE.weight(5) == 1


@pytest.fixture(params=["in memory", "streamed"])
def split(request, tmp_path):
    """Ten images."""
    if request.param == "in memory":
        return make_split(10)
    make_folder(tmp_path, size=(300, 260))
    return load_folder(tmp_path, limit_train=None, limit_test=None, workers=0).train


@pytest.mark.parametrize("augment", [False, True])
def test_shares_of_a_batch_are_its_images_to_the_pixel(split, augment):
    given = {"device": CPU, "seed": 3, "augment": augment, "start": 1}
    whole = list(split.batches(5, **given))
    parts = [list(split.batches(5, **given, share=RankSlice(rank, 2))) for rank in range(2)]
    assert len(whole) == 1
    for batch, shares in zip(whole, zip(*parts, strict=True), strict=True):
        assert [len(labels) for _, labels in shares] == [3, 2]
        for one, shared in zip(batch, zip(*shares, strict=True), strict=True):
            assert torch.equal(one, torch.cat(shared))


def test_shares_of_a_sample_make_up_the_sample(split):
    whole = split.sample(7, seed=2, device=CPU)
    parts = [split.sample(7, seed=2, device=CPU, share=RankSlice(rank, 3)) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 2, 2]
    assert torch.equal(whole, torch.cat(parts))


def test_parts_are_neighbouring_images(split):
    whole = torch.cat([images for images, _ in split.batches(4, device=CPU)])
    part = split.part(3, 8)
    assert len(part) == 5
    assert torch.equal(torch.cat([images for images, _ in part.batches(4, device=CPU)]), whole[3:8])
    assert len(split.part(10, 20)) == 0
