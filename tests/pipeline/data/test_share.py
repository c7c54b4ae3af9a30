"""Parts of images and of batches: nothing is lost, nothing counts twice."""

import pytest

from pipeline.data.share import WHOLE, Share


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 6, 7, 50])
def test_parts_are_neighbours_of_about_one_size_and_make_up_the_whole(length, count):
    parts = [Share(rank, count).of(length) for rank in range(count)]
    assert [number for part in parts for number in range(length)[part]] == list(range(length))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sizes[0] == max(sizes), "the main process has one where there are any"


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("length", [1, 2, 3, 6, 7, 50])
def test_weighted_means_of_the_parts_of_a_batch_are_its_mean(length, count):
    values = [float(number**2) for number in range(length)]
    weighted = []
    for share in (Share(rank, count) for rank in range(count)):
        mine = values[share.of_batch(length)]
        assert len(mine) >= min(2, length)
        weighted.append(share.weight(length) * sum(mine) / len(mine))
    assert sum(weighted) / count == pytest.approx(sum(values) / length)


def test_the_whole_is_one_part():
    assert WHOLE.of(5) == WHOLE.of_batch(5) == slice(0, 5)
    assert WHOLE.weight(5) == 1
