"""The caller's images: tensors, loaders, data sets, generators; each is read as often as it can be."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pipeline import compress
from pipeline.compression import images as reading
from pipeline.compression.images import read_images
from pipeline.compression.splits import LoaderSplit, TensorSplit
from pipeline.errors import DataError
from tests.pipeline.compression.networks import images, labels_of, seeded

X = images()
Y = labels_of(X)
CPU = torch.device("cpu")


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class Items(Dataset):
    """Images with a class as a plain number."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index], int(Y[index])


class Fields(Items):
    """Images, classes and numbers of the images, by name."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return {"number": index, "pixel_values": image, "labels": label}


class Plain:
    """Not torch's: it has a length and an index, and no iterator."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index].numpy(), int(Y[index])


class Pictures(Items):
    """Images that no loader stacks, as without a transform."""

    def __getitem__(self, index):
        return object(), 0


def read(source, count=1000, train=True, **options):
    return read_images(source, count=count, seed=0, batch_size=16, train=train, **options)


SOURCES = {
    "tensor": lambda: X,
    "double": lambda: X.double(),
    "pair": lambda: (X, Y),
    "list of images": lambda: list(X),
    "list of batches": lambda: list(X.split(16)),
    "list of pairs": lambda: list(zip(X.split(16), Y.split(16), strict=True)),
    "generator": lambda: (x for x in X.split(16)),
    "generator of images": lambda: iter(X),
    "loader": lambda: DataLoader(TensorDataset(X, Y), 16),
    "loader without labels": lambda: DataLoader(X, 16),
    "loader of a stream": lambda: DataLoader(Stream(), 16),
    "pairs with other targets": lambda: [(x, x * 2) for x in X.split(16)],
    "array": lambda: X.numpy(),
    "array of another layout": lambda: np.flip(X.double().numpy()[::-1], 0),
    "pair of arrays": lambda: (X.numpy(), Y.numpy()[:, None]),
    "array of another byte order": lambda: X.numpy().astype(">f4"),
    "pair with masks": lambda: (X, X[:, :, ::2].repeat(1, 2, 1, 1)),
    "list with masks": lambda: [X, X[:, :1].repeat(1, 5, 1, 1)],
    "tuple of batches": lambda: X.split(16),
    "pair with a list": lambda: (X, Y.tolist()),
    "dict": lambda: {"images": X, "labels": Y},
    "pairs with tuples": lambda: [(x, tuple(y.tolist())) for x, y in zip(X.split(16), Y.split(16), strict=True)],
    "generator of arrays": lambda: ((x.numpy(), y.numpy()) for x, y in zip(X.split(16), Y.split(16), strict=True)),
    "loader of dicts": lambda: DataLoader(Fields(), 16),
    "dicts with numbers": lambda: [
        {"idx": torch.arange(len(x)), "pixel_values": x, "label": y[:, None]}
        for x, y in zip(X.split(16), Y.split(16), strict=True)
    ],
    "dicts of arrays": lambda: [{"image": x.numpy(), "path": ["a"] * 16} for x in X.split(16)],
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_images(name):
    found = read(SOURCES[name]())
    assert torch.equal(found.calibration, X)
    assert found.calibration.dtype == torch.float32
    labelled = name in (
        *("pair", "dict", "list of pairs", "loader", "loader of a stream"),
        *("pair of arrays", "generator of arrays", "loader of dicts", "pair with a list", "pairs with tuples"),
        "dicts with numbers",
    )
    assert torch.equal(found.labels, Y) if labelled else found.labels is None
    batches = list(found.training.batches(16, device=CPU))
    assert sorted(map(float, torch.cat([x for x, _ in batches]).mean((1, 2, 3)))) == pytest.approx(
        sorted(map(float, X.mean((1, 2, 3))))
    )
    assert all(y.dtype == torch.int64 and len(x) == len(y) == 16 for x, y in batches)


@pytest.mark.parametrize("kind", [Items, Plain])
def test_a_data_set_is_shuffled_in_batches(kind):
    found = read(kind())
    assert not torch.equal(found.calibration, X)
    assert torch.allclose(found.calibration.sum(0), X.sum(0), atol=1e-4)
    assert sorted(found.labels.tolist()) == sorted(Y.tolist())
    assert torch.equal(read(kind()).calibration, found.calibration)
    assert isinstance(found.training, LoaderSplit)


def test_a_tensor_is_sampled_and_a_loader_is_read_from_the_front():
    sampled = read(X, count=20).calibration
    assert len(sampled) == 20
    assert not torch.equal(sampled, X[:20])
    assert torch.equal(read(DataLoader(X, 16), count=20).calibration, X[:20])
    assert len(read(X, count=20).training) == 48


def test_a_generator_is_read_once_up_to_the_limit():
    read_batches = []

    def batches():
        for x in X.split(8):
            read_batches.append(len(x))
            yield x

    found = read(batches(), count=20)
    assert len(read_batches) == 3
    assert isinstance(found.training, TensorSplit)
    assert len(found.training) == 20


def test_large_images_have_a_lower_limit(monkeypatch):
    monkeypatch.setattr(reading, "images_at_once", lambda size: 100_000 // (size[0] * size[1] * 100))
    assert len(read(X).calibration) == len(read(list(X.split(16))).calibration) == 10


def test_every_epoch_iterates_a_loader_again_under_its_own_random_numbers():
    loader = DataLoader(TensorDataset(X, Y), 16, shuffle=True)
    before = torch.get_rng_state()
    training = read(loader).training
    epochs = [torch.cat([x for x, _ in training.batches(16, device=CPU, seed=seed)]) for seed in (1, 2, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    assert len(training) == 48


def test_a_short_pass_is_followed_by_another():
    class Shrinking:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter(X.split(16)[: 3 if self.passes < 3 else 2])

    training = read(Shrinking()).training
    assert [len(list(training.batches(16, device=CPU))) for _ in range(3)] == [3, 3, 3]


def test_a_source_that_is_empty_when_it_is_read_again_is_named():
    class Once:
        used = False

        def __iter__(self):
            left = [] if self.used else [X]
            self.used = True
            return iter(left)

        def __len__(self):
            return 1

    with pytest.raises(DataError, match=r"again.*epochs=0"):
        compress(seeded(), Once(), config="3,2,2", epochs=2)
    assert compress(seeded(), Once(), config="3,2,2").size


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "NoneType"),
        (3, "int"),
        ("images", "a batch of type str"),
        ([], "without a batch"),
        (iter([]), "without a batch"),
        (X[:0], r"\(0, 1, 10, 10\)"),
        (X.numpy().astype("U"), "a batch of type ndarray"),
        ({"image": X, "mask": X}, "dict with the entries image, mask"),
        ({"train": [X]}, "dict with the entries train"),
        ([{"image": X, "mask": X}], "dict with the entries image, mask"),
        ((X * 255).to(torch.uint8), "uint8"),
        (X.flatten(1), r"\(48, 100\)"),
        ((Y, X), r"int64 of the shape \(48,\)"),
        (torch.full_like(X, float("nan")), "not finite"),
        ([X, images(4, side=12)], "one shape"),
        ((X, X[:, :, ::2]), "one shape"),
        ([X[0], images(4, side=12)[0]], "several shapes"),
        (Pictures(), r"cannot be read \(TypeError: .*found <class 'object'>"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_sources_are_refused_in_a_sentence(source, words):
    with pytest.raises(DataError, match=words) as caught:
        compress(seeded(), source, config="3,2,2", bits=4)
    assert str(caught.value).startswith("compress: images: got")
    assert "allowed: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sizes", [[8, 8, 1], [8, 1, 8]])
def test_a_batch_of_one_image_is_left_out_of_training(sizes):
    network = nn.Sequential(seeded(), nn.BatchNorm1d(4)).eval()
    batches = [(x, labels_of(x)) for x in images(17).split(sizes)]
    result = compress(network, batches, config=2, bits=8, epochs=1)
    assert result.network(images(3)).shape == (3, 4)


def test_a_source_may_use_its_memory_again():
    class Reusing:
        def __iter__(self):
            memory = torch.empty(8, 1, 10, 10)
            for number in range(3):
                yield memory[: 1 if number == 2 else 8].fill_(number)

        def __len__(self):
            return 2

    batches = read(Reusing()).training.batches(8, device=CPU)
    assert [float(images.mean()) for images, _ in batches] == [0, 1]


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield X[0], 1


class Unknown:
    def __iter__(self):
        return iter([X[:8], X[8:16]])

    def __len__(self):
        raise NotImplementedError("the length of a stream")


def test_a_source_without_a_length_is_counted_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(reading, "MOST_COUNTED", 10)
    with pytest.raises(DataError, match=r"more than 10 batches.*len\(\)"):
        read_images(DataLoader(Endless(), batch_size=8), count=8, seed=0, batch_size=8, train=True)
    assert len(read_images(Unknown(), count=8, seed=0, batch_size=8, train=True).training) == 16


def test_a_later_batch_of_other_channels_or_values_is_refused():
    for other, words in ((torch.randn(8, 3, *X.shape[2:]), "shapes"), (X[:8] * torch.nan, "finite")):
        with pytest.raises(DataError, match=words):
            compress(seeded(), [X[:8], X[8:16], other], config="3,2,2", epochs=1, calibration_size=16)


def test_every_image_of_a_tensor_is_looked_at_before_training():
    broken = X.clone()
    broken[-1] = torch.nan
    with pytest.raises(DataError, match="finite"):
        read_images(broken, count=8, seed=0, batch_size=8, train=True)


NOT_DENSE = {
    "sparse": lambda x: x.to_sparse(),
    "mkldnn": lambda x: x.to_mkldnn(),
    "meta": lambda x: x.to("meta"),
    "masked": lambda x: np.ma.masked_array(x.numpy(), x.numpy() > 0),
}


@pytest.mark.parametrize("kind", NOT_DENSE)
@pytest.mark.parametrize("late", [False, True])
def test_tensors_without_a_value_for_each_pixel_are_refused(kind, late):
    """torch raised an internal error, and the values under a mask were used."""
    other = NOT_DENSE[kind](X[:8])
    source = [(X[:8], Y[:8]), (X[:8], Y[:8]), (other, Y[:8])] if late else other
    with pytest.raises(DataError, match=rf"compress: images: got .*({kind}).*; allowed: "):
        compress(seeded(), source, config=[3, 2, 2], epochs=1, calibration_size=16)
