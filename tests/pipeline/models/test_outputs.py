"""Selecting the logits among the outputs of a network."""

import copy
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from pipeline.errors import OptionsError
from pipeline.models.outputs import logits_of, same_outputs, select_output

LOGITS, OTHER = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
Pair = namedtuple("Pair", ("out", "aux"))


@dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


@pytest.mark.parametrize(
    ("result", "output"),
    [
        (LOGITS, None),
        ((LOGITS, OTHER), None),
        ([OTHER, LOGITS], "1"),
        (Pair(LOGITS, OTHER), None),
        (Pair(OTHER, LOGITS), "aux"),
        (Pair(OTHER, LOGITS), "1"),
        ({"hidden": OTHER, "logits": LOGITS}, None),
        (OrderedDict(pred=LOGITS, count=3), None),
        ({"a": OTHER, "b": LOGITS}, "b"),
        (Output(LOGITS), None),
        (Output(OTHER, LOGITS), "hidden"),
    ],
)
def test_the_logits_are_found(result, output):
    assert logits_of(result, output, "Net") is LOGITS


@pytest.mark.parametrize(
    ("result", "output", "words"),
    [
        ({"a": OTHER, "b": LOGITS}, None, r"--output: is missing for Net, .* dict.* a, b"),
        ((LOGITS, OTHER), "2", r"got '2'.* tuple.* 0, 1"),
        ({"logits": LOGITS}, "pred", r"got 'pred'.*: logits"),
        (Output(LOGITS), "hidden", r"got 'hidden'.* Output"),
        ((), None, "tuple"),
        ("text", None, "str"),
        (LOGITS, "1", "got '1'"),
    ],
)
def test_what_is_no_tensor_is_refused(result, output, words):
    with pytest.raises(OptionsError, match=words):
        logits_of(result, output, "Net")


def test_a_copy_selects_too_and_training_may_return_more():
    class Net(nn.Module):
        def forward(self, x):
            return (x, x + 1) if self.training else x

    network = copy.deepcopy(select_output(Net(), None))
    assert network.train()(LOGITS) is LOGITS
    assert network.eval()(LOGITS) is LOGITS


def test_logits_of_masked_classes_do_not_widen_the_tolerance():
    logits = torch.tensor([[1.0, -torch.inf, 2.0]])
    assert same_outputs(logits + 1e-4, logits)
    assert not same_outputs(logits + 0.1, logits)
    assert not same_outputs(logits.nan_to_num(), logits)
