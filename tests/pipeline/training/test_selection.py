"""The choice of weights by the loss on held-out training images."""

import copy
import math

import pytest
import torch
from torch import nn

from pipeline.data.dataset import Normalization
from pipeline.data.memory import MemorySplit
from pipeline.training.schedule import Schedule
from pipeline.training.selection import (
    ANY_GAIN,
    NO_HARM,
    BestWeights,
    Selection,
    certain_gain,
    gains,
    hold_out,
    margin_of,
)


def split_of(count):
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 2, 2, 3)
    return MemorySplit(images, torch.zeros(count, dtype=torch.int64), Normalization(), flip=False)


@pytest.mark.parametrize(
    ("count", "held_out"), [(2, 1), (7, 3), (10, 5), (49, 5), (60, 6), (200, 20), (1437, 143), (50_000, 2000)]
)
def test_a_tenth_is_held_out_within_limits(count, held_out):
    images = MemorySplit(
        torch.zeros(1, 1, 1, 3, dtype=torch.uint8).expand(count, 1, 1, 3),
        torch.arange(count),
        Normalization(),
        flip=False,
    )
    parts = hold_out(images)
    assert (len(parts.trained), len(parts.held_out)) == (count - held_out, held_out)


def test_no_image_is_in_both_parts_unless_there_is_only_one():
    labels = [[int(label) for _, batch in part.batches(9, device=CPU) for label in batch] for part in numbered(40)]
    assert sorted(labels[0] + labels[1]) == list(range(40))
    single = split_of(1)
    assert hold_out(single) == (single, single)


CPU = torch.device("cpu")


def numbered(count):
    split = split_of(count)
    return hold_out(MemorySplit(split.images, torch.arange(count), split.normalization, flip=False))


def test_a_gain_must_exceed_its_standard_errors():
    before = torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    certain, noisy = before - 0.1, before - torch.tensor([2.0, -1.9, 2.0, -1.7])
    assert gains(before, certain)
    assert not gains(before, noisy)
    assert gains(before, noisy, ANY_GAIN)
    assert not gains(before, before + 0.01, ANY_GAIN)
    assert gains(before, before + 0.09, NO_HARM)
    assert not gains(before, before + 0.11, NO_HARM)
    assert gains(before[:1], certain[:1])


@pytest.mark.parametrize("epochs", [1, 5, 20])
def test_the_best_of_many_epochs_gains_by_chance_as_rarely_as_one(epochs):
    generator = torch.Generator().manual_seed(epochs)
    trainings = torch.randn(4000, epochs, 50, generator=generator, dtype=torch.float64)
    means = trainings.mean(2)
    best = trainings[torch.arange(4000), means.argmax(1)]
    found = sum(gains(each, torch.zeros(50), certain_gain(epochs)) for each in best) / 4000
    assert 0.01 < found < 0.04  # 0.023 for a normal distribution


def test_the_margin_follows_epochs_and_the_length_of_a_training():
    short, long = Schedule(epochs=5, lr=0.01), Schedule(epochs=10, lr=0.01)
    assert margin_of(short, 1000, seen=True) == certain_gain(5)
    assert margin_of(long, 10_000, seen=False) == certain_gain(10)
    assert margin_of(long, 10_000, seen=True) == NO_HARM
    assert certain_gain(1).standard_errors == pytest.approx(2.0)
    assert certain_gain(5).standard_errors == pytest.approx(2.61, abs=0.005)


def chosen(means, resume_after=None):
    """Choose among networks whose weights are the number of their epoch, with prescribed mean losses from the start."""
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0)

    def judge(model):
        return torch.full((8,), means[int(model.weight)], dtype=torch.float64)

    best = BestWeights(network, judge)
    start = copy.deepcopy(network)
    for epoch in range(1, len(means)):
        network.weight.data.fill_(epoch)
        mean = best.after_epoch(epoch, network)
        assert mean == means[epoch] or math.isnan(mean)
        if epoch == resume_after:
            stored = best.tensors()
            best = BestWeights(start, judge)
            best.restore(stored)
    selection = best.choose(network)
    assert float(network.weight.detach()) == selection.epoch
    return selection


@pytest.mark.parametrize("resume_after", [None, 1, 2, 3])
def test_the_epoch_with_the_least_loss_is_kept(resume_after):
    assert chosen([1.0, 1.5, 0.5, 0.75], resume_after=resume_after) == Selection(2, 1.0, 0.5)


@pytest.mark.parametrize("means", [[1.0, 1.5, 1.25], [1.0, math.nan, math.nan], [1.0, 1.0]])
def test_the_start_is_kept_if_no_epoch_gains(means):
    assert chosen(means) == Selection(0, 1.0, 1.0)


def test_an_epoch_whose_loss_is_not_finite_is_never_the_best():
    assert chosen([1.0, math.nan, 0.5]) == Selection(2, 1.0, 0.5)
    assert chosen([1.0, 0.5, math.nan]) == Selection(1, 1.0, 0.5)
