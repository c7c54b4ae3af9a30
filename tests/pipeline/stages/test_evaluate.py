"""Top-1 of known predictions."""

import weakref

import pytest
import torch
from torch import Tensor

from pipeline.stages.evaluate import measure


def test_top1_counts_the_predictions_that_equal_their_label():
    rows = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 9], [0, 9, 0], [9, 0, 0], [0, 0, 9], [9, 8, 0], [1, 2, 3]])
    labels = torch.tensor([0, 1, 2, 2, 1, 2, 0, 0])
    found = measure(lambda x: x, [(rows[:5], labels[:5]), (rows[5:], labels[5:])])
    assert (found.correct, found.total, found.top1) == (5, 8, 62.5)
    assert torch.equal(found.logits, rows)


def test_no_images_are_no_predictions():
    found = measure(lambda x: x, [])
    assert (found.correct, found.total, found.logits.numel()) == (0, 0, 0)


@pytest.mark.parametrize(("classes", "expected"), [(20, None), (21, 75.0)])
def test_top5_is_measured_for_more_than_20_classes(classes, expected):
    rows = torch.arange(float(classes)).repeat(4, 1)  # the last class has the largest logit
    labels = torch.tensor([classes - 1, classes - 3, classes - 5, classes - 6])
    found = measure(lambda x: x, [(rows, labels)])
    assert found.top5 == expected
    assert found.top1 == 25.0


def test_predictions_name_the_class_and_whether_it_is_right():
    rows = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 0, 9]])
    found = measure(lambda x: x, [(rows, torch.tensor([0, 2, 2]))]).predictions
    assert found.classes.tolist() == [0, 1, 2]
    assert found.right.tolist() == [True, False, True]


@torch.no_grad()
def test_a_forward_that_enables_gradients_keeps_the_maps_of_no_batch():
    """The logits of all batches are kept, and would keep the graphs, and so the maps, that led to them."""
    weight, maps = torch.ones(3, requires_grad=True), []

    def predict(x: Tensor) -> Tensor:
        with torch.enable_grad():
            features = x * weight
            maps.append(weakref.ref(features))
            return features * features

    def batches():
        for _ in range(2):
            yield torch.ones(4, 3), torch.zeros(4, dtype=torch.int64)
            assert maps[-1]() is None

    assert measure(predict, batches()).total == 8
