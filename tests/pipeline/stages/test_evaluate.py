"""Top-1 of known predictions."""

import torch

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
