"""Data sets of single images that are iterable, too, such as lists of pairs."""

import pytest
import torch

from pipeline.compression.images import read_images
from tests.pipeline.compression.networks import images, labels_of

X = images()
Y = labels_of(X)


class Rows:
    """Rows by number, with an iterator: as of a table of images."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return {"pixel_values": X[index], "labels": Y[index], "number": index}

    def __iter__(self):
        return (self[index] for index in range(len(self)))


class Drawn(Rows):
    """Images that are augmented at random."""

    def __getitem__(self, index):
        return X[index] + torch.rand(()), int(Y[index])


SOURCES = {
    "rows": Rows,
    "drawn": Drawn,
    "pairs": lambda: list(zip(X, Y.tolist(), strict=True)),
    "arrays": lambda: tuple((x.numpy(), y) for x, y in zip(X, Y.tolist(), strict=True)),
}


def read(source):
    return read_images(source, count=20, seed=0, batch_size=16, train=True)


@pytest.mark.parametrize("name", SOURCES)
def test_a_data_set_with_an_iterator_is_shuffled_in_batches(name):
    before = torch.get_rng_state()
    found = read(SOURCES[name]())
    assert torch.equal(torch.get_rng_state(), before)
    assert len(found.calibration) == 20
    assert not torch.equal(found.labels, Y[:20])
    assert torch.equal(read(SOURCES[name]()).calibration, found.calibration)
    batches = list(found.training.batches(16, device=torch.device("cpu")))
    assert [len(x) for x, _ in batches] == [16, 16, 16]
    assert torch.equal(torch.cat([y for _, y in batches]).sort()[0], Y.sort()[0])


def test_items_that_no_loader_stacks_are_iterated():
    found = read([(x, None) for x in X])
    assert torch.equal(found.calibration, X[:20])
    assert found.labels is None
