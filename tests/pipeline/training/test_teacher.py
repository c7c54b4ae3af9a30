"""The teacher's answers: the network's own, asked once for each batch."""

import torch
from torch import nn

from pipeline.runtime.device import make_accelerator
from pipeline.training.teacher import Teacher
from tests.support.networks import tiny_network


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls, self.linear = 0, nn.Linear(3, 5)

    def forward(self, x):
        self.calls += 1
        return self.linear(x.mean(dim=(2, 3)))


def images(seed):
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def asked(teacher, **changes):
    return teacher.output(images(0), **({"data": "a", "epoch_seed": 7, "batch_size": 4, "batch": 0} | changes))


def test_an_answer_is_the_networks_and_is_computed_once():
    network, accelerator = Counting().eval(), make_accelerator("cpu")
    teacher = Teacher(network, accelerator)
    first, second = asked(teacher), asked(teacher)
    with torch.no_grad(), accelerator.autocast():
        expected = network(images(0))
    assert torch.equal(first.logits, expected)
    assert torch.equal(second.logits, expected)
    assert second.logits.dtype == expected.dtype
    assert not first.logits.requires_grad
    assert network.calls == 2, "one for the teacher, one for the expected answer"


def test_a_mirrored_answer_is_the_mean_of_both_sides_and_its_features_are_of_one():
    network, accelerator = tiny_network(), make_accelerator("cpu", "fp32")
    answer, plain = (asked(Teacher(network, accelerator, mirrored=mirrored)) for mirrored in (True, False))
    with torch.no_grad():
        both = torch.stack([network(images(0)), network(images(0).flip(3))])
    assert not torch.allclose(both[0], both[1])
    torch.testing.assert_close(answer.logits, both.mean(0))
    assert all(torch.equal(answer.features[name], feature) for name, feature in plain.features.items())
    assert answer.features.keys() == plain.features.keys() != set()


def test_other_data_batches_epochs_and_batch_sizes_are_asked_anew():
    network = Counting().eval()
    teacher = Teacher(network, make_accelerator("cpu"))
    for change in ({}, {"data": "b"}, {"batch": 1}, {"epoch_seed": 8}, {"batch_size": 5}):
        asked(teacher, **change)
    assert network.calls == 5


def test_what_does_not_fit_is_computed_again():
    network = Counting().eval()
    teacher = Teacher(network, make_accelerator("cpu"), memory=asked(Teacher(network, make_accelerator("cpu"))).nbytes)
    network.calls = 0
    answers = [asked(teacher, batch=batch) for batch in (0, 1, 0, 1)]
    assert network.calls == 3
    assert torch.equal(answers[1].logits, answers[3].logits)


def test_features_are_the_stages_outputs_and_are_kept_with_the_logits():
    network, accelerator = tiny_network(), make_accelerator("cpu")
    teacher = Teacher(network, accelerator)
    first, second = (teacher.output(images(0), data="a", epoch_seed=0, batch_size=4, batch=0) for _ in range(2))
    with torch.no_grad(), accelerator.autocast():
        expected = [network[:end](images(0)) for end in (1, 2, 3)]
    for answer in (first, second):
        assert all(torch.equal(a, b) for a, b in zip(answer.features.values(), expected, strict=True))
    assert first.nbytes == first.logits.nbytes + sum(feature.nbytes for feature in expected)
