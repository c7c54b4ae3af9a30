"""Inference times, measured in turns."""

import pytest
import torch
from torch import nn

from pipeline.onnx.file import OnnxExporter
from pipeline.stages.timing import MOST_SECONDS, ROUNDS, InferenceTimes, alternating_medians, inference_times
from tests.pipeline.onnx.graphs import IDENTITY, compressed


class Clock:
    """Seconds that pass only in calls."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, ""

    def __call__(self) -> float:
        return self.now

    def takes(self, name: str, seconds: float):
        def call() -> None:
            self.order += name
            self.now += seconds

        return call


def test_calls_take_turns_and_the_first_is_not_counted():
    clock = Clock()
    assert alternating_medians([clock.takes("a", 0.001), clock.takes("b", 0.002)], clock) == pytest.approx([1.0, 2.0])
    assert clock.order == "ab" * (1 + ROUNDS)


def test_slow_networks_are_measured_once():
    clock = Clock()
    assert alternating_medians([clock.takes("a", MOST_SECONDS + 1)], clock) == pytest.approx(
        [1000 * (MOST_SECONDS + 1)]
    )
    assert clock.order == "aa"


def test_each_file_of_a_network_is_measured():
    record, network = compressed()
    content = OnnxExporter().file(record, network, IDENTITY)
    image = torch.zeros(1, 3, *IDENTITY.image_size)
    found = inference_times(network, network, content, image)
    assert min(found.original, found.artifact, found.onnx) > 0
    assert inference_times(network, network, None, image).onnx is None


def test_a_network_that_refuses_one_image_has_no_times():
    class Refusing(nn.Module):
        def forward(self, x):
            raise ValueError("two images at least")

    assert inference_times(Refusing(), Refusing(), None, torch.zeros(1, 3, 4, 4)) == InferenceTimes()
