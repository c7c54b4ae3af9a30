"""Comparison of the predictions of two networks."""

import torch

from pipeline.stages.predictions import Comparison, Predictions, compare


def test_images_are_compared_one_by_one():
    original = Predictions(torch.tensor([0, 1, 2, 3]), torch.tensor([True, True, False, False]))
    other = Predictions(torch.tensor([0, 2, 1, 3]), torch.tensor([True, False, True, False]))
    assert compare(original, other) == Comparison(50.0, 1, 1)
    assert compare(original, original) == Comparison(100.0, 0, 0)


def test_tensors_of_the_store_come_back():
    found = Predictions(torch.tensor([0, 1]), torch.tensor([True, False]))
    again = Predictions.of(found.tensors())
    assert torch.equal(again.classes, found.classes)
    assert torch.equal(again.right, found.right)
